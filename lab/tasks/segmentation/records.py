"""Amazon SageMaker's RecordIO-framed protobuf `Record`, written without a protobuf library.

Wire format: https://protobuf.dev/programming-guides/encoding/. Message, from SageMaker's "Common data formats":
Record {map<string, Value> features = 1}, Value {oneof: Float32Tensor = 2, Int32Tensor = 7}, either tensor
{repeated values = 1 [packed]}. Frame: MXNet's RecordIO, little endian: magic, length in the lower 29 bits, bytes
padded to a multiple of four.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np

from lab.core.errors import DataError

MAGIC = 0xCED7230A
MAX_FRAME = (1 << 29) - 1
_FLOAT32_TENSOR, _INT32_TENSOR = 2, 7


def varint(value: int) -> bytes:
    """A non-negative number, seven bits per byte, least significant first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field (wire type 2)."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def record(features: Mapping[str, np.ndarray]) -> bytes:
    """A `Record` of named arrays: floats as Float32Tensor, integers (not negative) as Int32Tensor; values flattened."""
    return b"".join(field(1, field(1, name.encode()) + field(2, _value(array))) for name, array in features.items())


def _value(array: np.ndarray) -> bytes:
    if np.issubdtype(array.dtype, np.floating):
        return field(_FLOAT32_TENSOR, field(1, np.ascontiguousarray(array, "<f4").tobytes()))
    return field(_INT32_TENSOR, field(1, b"".join(varint(int(value)) for value in array.ravel())))


def framed(content: bytes) -> bytes:
    """One RecordIO record. Raises DataError beyond the 512 MiB that a frame can say."""
    if len(content) > MAX_FRAME:
        raise DataError("a RecordIO record is too long", got=f"{len(content)} bytes", expected=f"at most {MAX_FRAME}")
    return struct.pack("<II", MAGIC, len(content)) + content + bytes(-len(content) % 4)
