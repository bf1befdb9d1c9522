"""Model weights as safetensors files."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lab.artifacts.files import atomic_path
from lab.core.errors import ArtifactError, IntegrityError


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors to `path` (not atomically: callers hold an atomic path or folder).

    Raises:
        OSError: the disk is full or the folder is not writable.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(_without_sharing(plain), str(path), metadata={"format": "pt"} | dict(metadata or {}))
    except SafetensorError as error:
        # safetensors words the system's error ("... No space left on device (os error 28)"); its number is needed.
        code = re.search(r"os error (\d+)", str(error))
        raise OSError(int(code.group(1)) if code else errno.EIO, str(error), str(path)) from error
    path.chmod(0o644)  # safetensors makes files that only their owner can read


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file to the CPU.

    Raises:
        ArtifactError: no such file.
        IntegrityError: not a safetensors file, or a truncated one.
    """
    try:
        return dict(load_file(str(path)))
    except FileNotFoundError as error:
        raise ArtifactError(f"there are no weights at {path}") from error
    except SafetensorError as error:
        raise IntegrityError(f"{path} is damaged", got=error, expected="a complete safetensors file") from error


def save_weights(model: nn.Module, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a model's parameters and buffers atomically. Raises StorageError."""
    with atomic_path(path) as temporary:
        write_tensors(model.state_dict(), temporary, metadata)


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill a model's parameters and buffers from a file; its names and shapes must be exactly the model's.

    Raises:
        ArtifactError: no such file, or it belongs to another model; the message names the differences.
        IntegrityError: the file is damaged.
    """
    tensors, own = read_tensors(path), model.state_dict()
    differences = [f"missing {name}" for name in own if name not in tensors]
    differences += [f"unknown {name}" for name in tensors if name not in own]
    differences += [
        f"{name} is {list(tensors[name].shape)}, not {list(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    if differences:
        more = f" and {len(differences) - 4} more" if len(differences) > 4 else ""
        raise ArtifactError(
            f"the weights at {path} are of another model",
            got="; ".join(differences[:4]) + more,
            expected=f"the {len(own)} tensors of {type(model).__name__}",
            hint="build the model from the configuration stored beside the weights",
        )
    model.load_state_dict(tensors)


def _without_sharing(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of tensors that share memory (tied weights), which safetensors does not store."""
    seen: set[int] = set()
    unshared: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        pointer = tensor.untyped_storage().data_ptr()
        unshared[name] = tensor.clone() if pointer in seen and tensor.numel() else tensor
        seen.add(pointer)
    return unshared
