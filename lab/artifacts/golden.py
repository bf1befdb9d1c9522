"""Golden samples: inputs and the outputs a model must give for them, beside its manifest in `golden.npz`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import numpy as np

from lab.artifacts.files import atomic_path
from lab.core.errors import ArtifactError

GOLDEN_NAME = "golden.npz"
MAX_BYTES = 256 * 1024 * 1024
"""Unpacked: members are read no further than the size that is recorded of them."""
_INPUT, _OUTPUT, _TOLERANCE = "input.", "output.", "tolerance"


@dataclass(frozen=True)
class Golden:
    """`tolerance` is the largest difference allowed, as a share of an output's largest magnitude (at least 1)."""

    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    tolerance: float = 1e-3


def write_golden(folder: Path, golden: Golden) -> None:
    """Write `golden.npz` into an artifact's folder; to be done before its manifest records the files."""
    arrays = {_INPUT + name: array for name, array in golden.inputs.items()}
    arrays |= {_OUTPUT + name: array for name, array in golden.outputs.items()}
    with atomic_path(folder / GOLDEN_NAME) as path, path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays, **{_TOLERANCE: np.asarray(golden.tolerance)})


def read_golden(folder: Path) -> Golden | None:
    """None where the artifact has none. Raises ArtifactError when it is damaged."""
    path = folder / GOLDEN_NAME
    if not path.exists():
        return None
    try:
        with ZipFile(path) as members:
            size = sum(member.file_size for member in members.infolist())
        if size > MAX_BYTES:
            raise ArtifactError("the golden sample is too large", got=f"{size} bytes", expected=f"{MAX_BYTES} at most")
        with np.load(path, allow_pickle=False) as stored:
            return Golden(_part(stored, _INPUT), _part(stored, _OUTPUT), float(stored[_TOLERANCE]))
    except ArtifactError:
        raise
    except Exception as error:  # zipfile, zlib, tokenize and NumPy raise a dozen kinds on damaged files
        raise ArtifactError("the golden sample is damaged", got=f"{type(error).__name__}: {error}") from error


def _part(stored: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): stored[name] for name in stored if name.startswith(prefix)}
