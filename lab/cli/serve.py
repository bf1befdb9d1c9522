"""`lab serve`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import subprocess

    from lab.serve.config import EndpointConfig

TRACKING_END_S = 20.0
"""How long the command waits for MLflow to be told of the endpoint's end."""


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
    trackers: list[subprocess.Popen[bytes]] = []

    def ready() -> None:
        scheme = "https" if endpoint.security.tls_certificate else "http"
        address = f"{scheme}://{endpoint.host}:{supervisor.topology.port}"
        say(f"endpoint {endpoint.endpoint} is ready on {address} (live page {address}/ui, API {address}/docs)")
        if endpoint.tracking.enabled:
            trackers.append(_start_tracking(endpoint))

    uvloop.run(supervisor.run(ready))
    say(f"endpoint {endpoint.endpoint} has answered what it had taken, and stopped")
    for tracker in trackers:
        _let_finish(tracker)


def _start_tracking(endpoint: EndpointConfig) -> subprocess.Popen[bytes]:
    """The process that tells MLflow of the endpoint. In a session of its own: it ends by itself, after the endpoint."""
    import subprocess
    import sys

    tracking = endpoint.tracking
    command = [sys.executable, "-m", "lab.cli.main", "endpoints", "sync", endpoint.endpoint]
    command += ["--state-dir", str(endpoint.log.state_dir), "--watch", str(tracking.every_s)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)


def _let_finish(tracker: subprocess.Popen[bytes]) -> None:
    import subprocess

    from lab.core.progress import say

    try:
        tracker.wait(TRACKING_END_S)
    except subprocess.TimeoutExpired:
        say("MLflow is still being told of the end; `lab endpoints sync` does it again if that is cut short")


def _plan(endpoint: EndpointConfig, resolved: dict[str, Path]) -> dict[str, object]:
    """What would be served. Raises ArtifactError where a model is missing or damaged."""
    import tempfile

    from lab.serve.models import of_config

    with tempfile.TemporaryDirectory() as store:
        variants = of_config(endpoint, Path(store), resolved)
    total = sum(variant.config.weight for variant in variants if not variant.config.shadow)
    rows = [
        {"variant": v.config.name, "model": " > ".join(v.config.models), **v.identity, "weight": v.config.weight,
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
    for name in sorted({model for v in endpoint.variants for model in v.models if model.startswith("models:/")}):
        target = endpoint.log.state_dir / endpoint.endpoint / "registry"
        command = [sys.executable, "-m", "lab.tracking.fetch", name, str(target)]
        command += [endpoint.tracking.uri] if endpoint.tracking.uri else []
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise TrackingError(f"{name} cannot be fetched", got=done.stderr.strip()[-1000:])
        resolved[name] = Path(done.stdout.strip().splitlines()[-1])
    return resolved
