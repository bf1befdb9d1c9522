"""Arrays from bytes and from JSON, each checked before anything is allocated for it."""

from __future__ import annotations

import ast
import io
import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from lab.core.errors import DataError
from lab.core.signature import Signature, TensorSpec

NPY = "application/x-npy"
_MAGIC = b"\x93NUMPY"
_COMMON_HEADER_BYTES = 256
_KINDS = {"b": "b", "i": "iub", "u": "iub", "f": "iuf"}
"""Kinds of JSON numbers that each kind of tensor takes."""


def from_bytes(spec: TensorSpec, shape: Sequence[int], content: memoryview) -> np.ndarray:
    """Little-endian, row-major bytes to an array; no copy where they lie aligned.

    Raises:
        DataError: the number of bytes is not what the shape needs.
    """
    dtype = np.dtype(spec.dtype).newbyteorder("<")
    wanted = prod(shape) * dtype.itemsize  # Python's integers: no overflow
    if wanted != len(content):
        raise DataError(
            f"tensor '{spec.name}' has the wrong number of bytes", got=len(content),
            expected=f"{wanted} for {spec.dtype}{list(shape)}",
        )  # fmt: skip
    return np.require(np.frombuffer(content, dtype).reshape(shape), requirements=["A", "C"])


def from_json(spec: TensorSpec, data: Any, shape: Sequence[int] | None = None) -> np.ndarray:
    """A JSON list, nested or flat, to an array of the tensor's dtype.

    Args:
        shape: what a flat list is brought to; None keeps the nesting.

    Raises:
        DataError: not numbers, of another kind or out of range, ragged, or not as many as the shape needs.
    """
    try:
        found = np.asarray(data)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"tensor '{spec.name}' is ragged", got=str(error)[:100]) from error
    kind = np.dtype(spec.dtype).kind
    if found.size and found.dtype.kind not in _KINDS.get(kind, ""):
        raise DataError(
            f"tensor '{spec.name}' does not hold {spec.dtype}", got=f"values like {str(found.flat[0])[:40]!r}"
        )
    with np.errstate(over="ignore"):
        array: np.ndarray = found.astype(spec.dtype, order="C")
    if kind in "iub" and not np.array_equal(array, found):
        raise DataError(f"tensor '{spec.name}' holds values that do not fit {spec.dtype}")
    if shape is None:
        return array
    if array.size != prod(shape):
        raise DataError(
            f"tensor '{spec.name}' has the wrong number of values", got=array.size,
            expected=f"{prod(shape)} for {list(shape)}",
        )  # fmt: skip
    return array.reshape(shape)


def check_shape(name: str, shape: Any) -> tuple[int, ...]:
    """Raises DataError when it is no list of up to 16 non-negative integers."""
    good = isinstance(shape, list) and len(shape) <= 16
    if not good or not all(isinstance(dim, int) and not isinstance(dim, bool) and 0 <= dim < 2**40 for dim in shape):
        raise DataError(f"tensor '{name}' has no usable shape", got=repr(shape)[:80], expected="a list of sizes")
    return tuple(shape)


def check_finite(feed: Mapping[str, np.ndarray]) -> None:
    """Raises DataError when a float tensor holds NaN or infinity."""
    for name, array in feed.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError(
                f"tensor '{name}' holds NaN or infinity", hint="variants.non_finite: allow, where the model knows them"
            )


def check_feed(signature: Signature, feed: Mapping[str, np.ndarray], *, finite: bool) -> int:
    """Check arrays against a signature; returns the number of samples. Raises DataError."""
    dims = signature.check_inputs(feed)
    if finite:
        check_finite(feed)
    if any(size == 0 for size in dims.values()):
        raise DataError("a dimension is 0", got=dims, expected="at least 1")
    return dims.get("batch", 1)


def read_npy(body: bytes) -> np.ndarray:
    """An array in NumPy's format, version 1.0 to 3.0; never a pickled one.

    Raises:
        DataError: not in that format, of objects, or of another size than its header says.
    """
    try:
        header, start = _npy_header(body)
        dtype, shape, fortran = np.dtype(header["descr"]), header["shape"], header["fortran_order"]
        sizes_fit = all(type(size) is int and size >= 0 for size in shape)
    except (KeyError, TypeError, ValueError, SyntaxError, struct.error, MemoryError, RecursionError) as error:
        raise DataError("the body is no .npy file", got=str(error)[:100]) from error
    if dtype.hasobject or dtype.kind not in "biuf":
        raise DataError("the array does not hold numbers", got=str(dtype)[:40], expected="integers or floats")
    if not sizes_fit or prod(shape) * dtype.itemsize != len(body) - start:
        raise DataError(
            "the array has another size than its header says", got=f"{len(body) - start} bytes",
            expected=f"{dtype}{list(shape)}",
        )  # fmt: skip
    array = np.frombuffer(memoryview(body)[start:], dtype)
    array = array.reshape(shape, order="F" if fortran else "C")
    return np.require(array.astype(dtype.newbyteorder("="), copy=False), requirements=["A", "C"])


def _npy_header(body: bytes) -> tuple[dict[str, Any], int]:
    """The literal after the magic, and where the data starts. Format: NumPy Enhancement Proposal 1."""
    if body[:6] != _MAGIC or body[6:7] not in (b"\x01", b"\x02", b"\x03"):
        raise ValueError("no magic at its start")
    wide = body[6] > 1
    length = struct.unpack_from("<I" if wide else "<H", body, 8)[0]
    start = (12 if wide else 10) + length
    if length > 10_000 or start > len(body):
        raise ValueError(f"a header of {length} bytes")
    text = body[start - length : start]
    return (_literal(text) if length <= _COMMON_HEADER_BYTES else _literal.__wrapped__(text)), start


@lru_cache(maxsize=256)
def _literal(text: bytes) -> dict[str, Any]:
    """A header's dictionary. Clients send the same shape again and again: parsing it costs more than a small model."""
    header = ast.literal_eval(text.decode("utf-8"))
    if not isinstance(header, dict) or not isinstance(header.get("shape"), tuple):
        raise ValueError("its header is no dictionary with a shape")
    return header


def write_npy(array: np.ndarray) -> bytes:
    """An array in NumPy's format, version 1.0."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
