"""`lab serve`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lab.serve.config import EndpointConfig


def command(
    config: Annotated[Path, typer.Argument(help="configs/endpoints/NAME.yaml")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="e.g. port=8081 workers=2")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check configuration and models, print the plan, start nothing.")
    ] = False,
    insecure: Annotated[bool, typer.Option("--insecure", help="Let other machines call without a token.")] = False,
) -> None:
    """Serve weighted production variants over SageMaker's and Triton's protocols, until SIGTERM.

    Models named models:/NAME@ALIAS are fetched from the MLflow registry first, by another process.
    """
    from lab.core.progress import say, warn
    from lab.runtime.tvm_runner import use_runtime_library_only
    from lab.serve.config import check_exposure, check_threads, load_endpoint

    use_runtime_library_only()
    endpoint = load_endpoint(config, overrides or ())
    check_exposure(endpoint, insecure=insecure)
    for complaint in check_threads(endpoint):
        warn(complaint)
    resolved = _fetch(endpoint)
    if dry_run:
        print(json.dumps(_plan(endpoint, resolved), indent=2))
        return
    import uvloop

    from lab.serve.supervisor import Supervisor

    supervisor = Supervisor(endpoint, resolved)

    def ready() -> None:
        scheme = "https" if endpoint.security.tls_certificate else "http"
        address = f"{scheme}://{endpoint.host}:{supervisor.topology.port}"
        say(f"endpoint {endpoint.endpoint} is ready on {address} (live page {address}/ui, API {address}/docs)")

    uvloop.run(supervisor.run(ready))
    say(f"endpoint {endpoint.endpoint} has answered what it had taken, and stopped")


def _plan(endpoint: EndpointConfig, resolved: dict[str, Path]) -> dict[str, object]:
    """What would be served. Raises ArtifactError where a model is missing or damaged."""
    import tempfile

    from lab.serve.models import of_config

    with tempfile.TemporaryDirectory() as store:
        variants = of_config(endpoint, Path(store), resolved)
    total = sum(variant.config.weight for variant in variants if not variant.config.shadow)
    rows = [
        {"variant": v.config.name, "model": v.config.model, **v.identity, "weight": v.config.weight,
         "share": None if v.config.shadow else v.config.weight / total, "shadow": v.config.shadow,
         "threads": f"{v.config.executor_threads} executors x {v.config.runtime_threads}",
         "max_batch": v.config.max_batch, "max_queue": v.config.max_queue}
        for v in variants
    ]  # fmt: skip
    return {
        "endpoint": endpoint.endpoint, "address": f"{endpoint.host}:{endpoint.port}", "workers": endpoint.workers,
        "guard": endpoint.guard is not None, "variants": rows,
    }  # fmt: skip


def _fetch(endpoint: EndpointConfig) -> dict[str, Path]:
    """Folders of the registry's models, fetched by a process of its own: MLflow is never imported here."""
    import subprocess
    import sys

    from lab.core.errors import TrackingError

    resolved = {}
    for name in sorted({v.model for v in endpoint.variants if v.model.startswith("models:/")}):
        target = endpoint.log.state_dir / endpoint.endpoint / "registry"
        command = [sys.executable, "-m", "lab.tracking.fetch", name, str(target)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise TrackingError(f"{name} cannot be fetched", got=done.stderr.strip()[-1000:])
        resolved[name] = Path(done.stdout.strip().splitlines()[-1])
    return resolved
