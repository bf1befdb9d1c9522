"""Model folders: where they may lie, whether they are signed, and what they are."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from lab.artifacts.files import sha256_file, sha256_json
from lab.artifacts.manifest import MANIFEST_NAME, Manifest
from lab.artifacts.registered import read_registered
from lab.artifacts.signing import verify_signature
from lab.core.errors import ArtifactError, ConfigError, UnsupportedError
from lab.serve.config import EndpointConfig, SecurityConfig, VariantConfig
from lab.serve.steps import pipeline_manifest
from lab.serve.topology import Deployed

REGISTRY = "models:/"


def check_folder(folder: Path, hint: str | None = None) -> Path:
    """Raises ArtifactError when no model lies there."""
    if not _is_file(folder / MANIFEST_NAME):
        raise ArtifactError(
            f"there is no model at {folder}", expected=f"a folder with {MANIFEST_NAME}: a bundle or an ONNX export",
            hint=hint or making(folder),
        )  # fmt: skip
    return folder


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def making(folder: Path) -> str:
    """The commands that make a folder of the usual layout, runs/<task>/<run>/bundles/<target> or .../export."""
    parts = folder.parts
    if "runs" not in parts or len(parts) < parts.index("runs") + 4:
        return "lab compile RUN makes a bundle, lab export RUN an ONNX export"
    at = parts.index("runs")
    task, run, kind = parts[at + 1], parts[at + 2], parts[at + 3]
    config = f"configs/{task}/{run}.yaml"
    last = f"make compile RUN={run} TARGET={parts[at + 4]}" if kind == "bundles" and len(parts) > at + 4 else ""
    steps = [f"make train CONFIG={config}", f"make export RUN={run}", last]
    return "; ".join(step for step in steps if step)


def folder_of_url(url: str, security: SecurityConfig) -> Path:
    """The folder a ModelDataUrl names: a path or file:// below `security.model_root`, links resolved.

    Raises:
        ConfigError: outside of the root, or there is none.
        UnsupportedError: another scheme: nothing is fetched over the network here.
    """
    parts = _split(url)
    if parts.scheme not in ("", "file") or parts.netloc not in ("", "localhost"):
        raise UnsupportedError(f"models are not fetched from {parts.scheme}://", expected="a path or file:///path")
    if security.model_root is None:
        raise ConfigError("the control plane may load no models", hint="set security.model_root in the configuration")
    root = security.model_root.resolve()
    try:
        folder = (root / unquote(parts.path)).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a null byte, links in a circle
        raise ConfigError("the model's path cannot be one", got=url[:200]) from error
    if not folder.is_relative_to(root):
        raise ConfigError("the model lies outside of the allowed folder", got=url[:200], expected=f"below {root}")
    return check_folder(folder)


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as error:
        raise ConfigError("the model's address is none", got=url[:200]) from error


Folders = Path | Sequence[Path]
"""Of a variant: one model's, or those of a pipeline's steps."""


def prepared(config: VariantConfig, folder: Folders, security: SecurityConfig, store: Path) -> Deployed:
    """A variant ready to be loaded: its checksums verified and, where a key is configured, its signature.

    A signed model is copied first and the copy is what is verified and loaded, so that nobody can exchange a file
    between the two. `store` holds the copies.

    Raises:
        ArtifactError, IntegrityError: it is missing, unsigned, or not as it was built.
        ConfigError: steps of a pipeline that do not fit together.
    """
    if config.remote is not None:
        config.remote.client(config.remote.timeout_s)  # an address that is none is told before the start
        identity = {
            "model_id": config.remote.url,
            "sha256": "",
            "target": config.remote.protocol,
            "task": "",
            "tvm": "",
        }
        return Deployed(config, Path(config.remote.url), identity=identity)
    if isinstance(folder, Path):
        folder, manifest = _checked(folder, security, store)
        return Deployed(config, folder, identity=identity_of(manifest, folder), registered=read_registered(folder))
    found = [_checked(one, security, store) for one in folder]
    steps, manifests = tuple(one for one, _ in found), [manifest for _, manifest in found]
    pipeline_manifest(manifests, config.wires)
    parts = [identity_of(manifest, one) for one, manifest in found]
    identity = {key: " > ".join(part[key] for part in parts) for key in parts[0]}
    identity["sha256"] = sha256_json([part["sha256"] for part in parts] + [config.wires])[:16]
    return Deployed(config, steps[0], identity=identity, steps=steps)


def _checked(folder: Path, security: SecurityConfig, store: Path) -> tuple[Path, Manifest]:
    """The folder to load from, and its manifest."""
    check_folder(folder)
    if security.public_key is not None:
        folder = _private_copy(folder, store)
        verify_signature(folder, security.public_key)
    return folder, Manifest.load(folder)


def _private_copy(folder: Path, store: Path) -> Path:
    store.mkdir(parents=True, exist_ok=True, mode=0o700)
    copy = Path(tempfile.mkdtemp(dir=store, prefix=f"{folder.name}-"))
    for source in folder.rglob("*"):
        if source.is_file() and not source.is_symlink():
            target = copy / source.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    return copy


def identity_of(manifest: Manifest, folder: Path) -> dict[str, str]:
    """What tells one model from another, in logs and metrics."""
    return {
        "model_id": manifest.name, "sha256": sha256_file(folder / MANIFEST_NAME)[:16],
        "target": manifest.target.name if manifest.target else manifest.kind, "task": manifest.task or "",
        "tvm": str(manifest.versions.get("apache-tvm", "")),
    }  # fmt: skip


def _folder(model: str, resolved: Mapping[str, Path]) -> Path:
    if model.startswith(REGISTRY) and model not in resolved:
        raise ConfigError(f"{model} was not fetched", hint="lab serve CONFIG fetches it before it starts")
    return resolved.get(model) or Path(model)


def of_config(config: EndpointConfig, store: Path, resolved: Mapping[str, Path]) -> list[Deployed]:
    """Every variant of a configuration; `resolved` are the folders that registry names were fetched to.

    Raises:
        ConfigError: a registry name that was not fetched.
        ArtifactError, IntegrityError: as `prepared`.
    """
    found = []
    for variant in config.variants:
        folders = [_folder(model, resolved) for model in variant.models]
        found.append(prepared(variant, folders if variant.steps else folders[0], config.security, store))
    return found
