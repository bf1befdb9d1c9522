"""`python -m lab.tracking.fetch models:/NAME@ALIAS FOLDER`: a model of the registry as files; prints its folder.

A process of its own, run before the endpoint starts: MLflow never gets into the processes that serve.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lab.artifacts.files import atomic_dir
from lab.artifacts.manifest import MANIFEST_NAME, Manifest
from lab.core.errors import ArtifactError, LabError, TrackingError
from lab.tracking.server import check_reachable, connect, describe, resolve_uri


def fetch(name: str, target: Path) -> Path:
    """Download a registered model below `target`, once per version.

    Raises:
        TrackingError: the server cannot be reached, or has no such model.
        ArtifactError, IntegrityError: what it has is no bundle or ONNX model of the lab, or damaged.
    """
    uri = resolve_uri(None)
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
            _download(client, version, folder)
    except LabError:
        raise
    except Exception as error:  # MLflow raises whatever its store does
        raise TrackingError(f"{name} cannot be fetched from {uri}", got=describe(error)) from error
    Manifest.load(folder)
    return folder


def _download(client: object, version: object, folder: Path) -> None:
    import mlflow.artifacts

    with atomic_dir(folder) as temporary:
        source = str(getattr(version, "source", ""))
        got = Path(mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=str(temporary / "got")))
        manifests = sorted(got.rglob(MANIFEST_NAME))
        if not manifests:
            raise ArtifactError("the registered model is not one of the lab", got=source, expected=MANIFEST_NAME)
        for file in manifests[0].parent.iterdir():
            file.rename(temporary / file.name)


def main() -> None:
    """Prints the folder, or the error and exits with 1."""
    try:
        print(fetch(sys.argv[1], Path(sys.argv[2])))
    except LabError as error:
        sys.exit(error.message())


if __name__ == "__main__":
    main()
