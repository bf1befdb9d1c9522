"""Which version of a registered model a fetched folder is: `registered.json` beside its manifest."""

from __future__ import annotations

from pathlib import Path

from lab.artifacts.files import read_json, write_json
from lab.core.errors import ArtifactError

REGISTERED_NAME = "registered.json"


def write_registered(folder: Path, model: str, version: str) -> None:
    """Raises StorageError."""
    write_json(folder / REGISTERED_NAME, {"model": model, "version": version})


def read_registered(folder: Path) -> str:
    """ "models:/NAME/VERSION"; "" for a folder that was not fetched from a registry. Raises ArtifactError."""
    path = folder / REGISTERED_NAME
    if not path.exists():
        return ""
    found = read_json(path)
    if not isinstance(found, dict) or not {"model", "version"} <= set(found):
        raise ArtifactError(f"{path} is damaged", got=str(found)[:100], hint="remove its folder: it is fetched again")
    return f"models:/{found['model']}/{found['version']}"
