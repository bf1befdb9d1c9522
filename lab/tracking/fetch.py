"""`python -m lab.tracking.fetch models:/NAME@ALIAS FOLDER [URI]`: a model of the registry as files; prints its folder.

A process of its own, run before the endpoint starts: MLflow never gets into the processes that serve.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from lab.artifacts.files import atomic_dir
from lab.artifacts.manifest import MANIFEST_NAME, Manifest
from lab.artifacts.registered import write_registered
from lab.core.errors import ArtifactError, LabError, TrackingError
from lab.tracking.server import check_reachable, connect, describe, resolve_uri


def fetch(name: str, target: Path, uri: str | None = None) -> Path:
    """Download a registered model below `target`, once per version.

    Args:
        uri: of the registry; MLFLOW_TRACKING_URI wins.

    Raises:
        TrackingError: the server cannot be reached, or has no such model.
        ArtifactError, IntegrityError: what it has is no bundle or ONNX model of the lab, or damaged.
    """
    uri = resolve_uri(uri)
    check_reachable(uri)
    client = connect(uri)
    model, _, rest = name.removeprefix("models:/").partition("@")
    try:
        if rest:
            version = client.get_model_version_by_alias(model, rest)
        else:
            model, _, number = model.partition("/")
            version = client.get_model_version(model, number)
        folder = target / f"{model}-{version.version}"
        if not (folder / MANIFEST_NAME).exists():
            _download(client, version, folder, model)
    except LabError:
        raise
    except Exception as error:  # MLflow raises whatever its store does
        raise TrackingError(f"{name} cannot be fetched from {uri}", got=describe(error)) from error
    Manifest.load(folder)
    return folder


def _download(client: Any, version: Any, folder: Path, model: str) -> None:
    import mlflow.artifacts

    with atomic_dir(folder) as temporary:
        source = client.get_model_version_download_uri(model, version.version)
        got = Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=source, dst_path=str(temporary / "got"), tracking_uri=client.tracking_uri
            )
        )
        manifests = sorted(got.rglob(MANIFEST_NAME))
        if not manifests:
            raise ArtifactError("the registered model is not one of the lab", got=source, expected=MANIFEST_NAME)
        for file in manifests[0].parent.iterdir():
            file.rename(temporary / file.name)
        shutil.rmtree(got)
        write_registered(temporary, model, str(version.version))


def main() -> None:
    """Prints the folder, or the error and exits with 1."""
    try:
        print(fetch(sys.argv[1], Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None))
    except LabError as error:
        sys.exit(error.message())


if __name__ == "__main__":
    main()
