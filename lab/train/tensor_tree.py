"""Nested Python state <-> JSON structure + named tensors: what pickle is used for elsewhere, without running code.

JSON has neither tuples, nor keys that are not text, nor infinities; those are wrapped in an object with one key that
starts with "$".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lab.core.errors import IntegrityError, UnsupportedError


def flatten(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """Split nested dicts, lists, tuples, tensors, numbers, texts and None into JSON and tensors.

    Raises:
        UnsupportedError: a value of another type; the message has its path.
    """
    tensors: dict[str, Tensor] = {}
    return _encode(tree, "", tensors), tensors


def unflatten(structure: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `flatten`. Raises IntegrityError when a tensor is missing."""
    if isinstance(structure, list):
        return [unflatten(item, tensors) for item in structure]
    if not isinstance(structure, dict):
        return structure
    if len(structure) == 1:
        [(key, value)] = structure.items()
        if key == "$tensor":
            return _tensor(value, tensors)
        if key == "$float":
            return float(value)
        if key == "$tuple":
            return tuple(unflatten(item, tensors) for item in value)
        if key == "$items":
            return {unflatten(name, tensors): unflatten(item, tensors) for name, item in value}
    return {key: unflatten(value, tensors) for key, value in structure.items()}


def _encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = path or "value"
        tensors[name] = value
        return {"$tensor": [name, "channels_last" if _is_channels_last(value) else "contiguous"]}
    if isinstance(value, Mapping):
        return _encode_mapping(value, path, tensors)
    if isinstance(value, list | tuple):
        items = [_encode(item, f"{path}.{index}" if path else str(index), tensors) for index, item in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(float(value))}
    # Subclasses such as numpy's float64 and enums of text are written as the plain value they are.
    for plain in (bool, int, float, str):
        if isinstance(value, plain):
            return plain(value)
    if value is None:
        return None
    raise UnsupportedError(
        f"the training state cannot hold {path}", got=type(value).__name__, expected="tensors, numbers, texts, None"
    )


def _encode_mapping(value: Mapping[Any, Any], path: str, tensors: dict[str, Tensor]) -> Any:
    items = [(key, _encode(item, f"{path}.{key}" if path else str(key), tensors)) for key, item in value.items()]
    if all(isinstance(key, str) and not key.startswith("$") for key, _ in items):
        return dict(items)
    return {"$items": [[_encode(key, f"{path}.key", tensors), item] for key, item in items]}


def _tensor(reference: Any, tensors: Mapping[str, Tensor]) -> Tensor:
    name, memory_format = reference
    if name not in tensors:
        raise IntegrityError("the training state is incomplete", got=f"no tensor '{name}'")
    tensor = tensors[name]
    return tensor.contiguous(memory_format=torch.channels_last) if memory_format == "channels_last" else tensor


def _is_channels_last(value: Tensor) -> bool:
    return value.ndim == 4 and not value.is_contiguous() and value.is_contiguous(memory_format=torch.channels_last)
