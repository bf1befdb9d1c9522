"""Checkpoints as a folder of JSON and safetensors, replaced atomically; plugged into Lightning as its CheckpointIO."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import CheckpointIO

from lab.artifacts.files import atomic_dir, read_json, recover_dir
from lab.core.errors import ArtifactError
from lab.train.tensor_tree import flatten, unflatten
from lab.train.weights import read_tensors, write_tensors

FORMAT = 1
STRUCTURE = "state.json"
TENSORS = "tensors.safetensors"


class FolderCheckpointIO(CheckpointIO):  # type: ignore[misc]
    """`path/state.json` (structure, numbers, texts) and `path/tensors.safetensors`. No pickle."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Replace the checkpoint at `path`; the old one stays if anything fails.

        Raises:
            StorageError: the disk is full or the folder is not writable.
        """
        structure, tensors = flatten(checkpoint)
        with atomic_dir(Path(path)) as folder:
            write_tensors(tensors, folder / TENSORS)
            text = json.dumps({"format": FORMAT, "state": structure}, allow_nan=False)
            (folder / STRUCTURE).write_text(text, encoding="utf-8")

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint to the CPU; Lightning moves it. Raises ArtifactError, IntegrityError."""
        structure = read_structure(Path(path))
        state: dict[str, Any] = unflatten(structure, read_tensors(Path(path) / TENSORS))
        return state

    def remove_checkpoint(self, path: str | Path) -> None:
        shutil.rmtree(path, ignore_errors=True)


def has_checkpoint(path: Path) -> bool:
    """Whether a complete checkpoint is at `path`, after undoing a replacement that was killed half-way."""
    recover_dir(path)
    return (path / STRUCTURE).exists()


def read_structure(path: Path) -> dict[str, Any]:
    """The JSON half of a checkpoint, with references in the place of tensors. Raises ArtifactError."""
    data = read_json(path / STRUCTURE)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise ArtifactError(f"{path} has another checkpoint format", got=found, expected=FORMAT)
    state: dict[str, Any] = data["state"]
    return state
