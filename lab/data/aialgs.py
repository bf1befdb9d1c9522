"""SageMaker's protobuf `Record`, maps from names to tensors: integers of seq2seq (S2S-I2, S2S-I8), masks (SS-O3).

    message Float32Tensor { repeated float values = 1 [packed = true]; ... }
    message Int32Tensor   { repeated int32 values = 1 [packed = true]; ... }
    message Value         { oneof value { Float32Tensor float32_tensor = 2; ...; Int32Tensor int32_tensor = 7; ... } }
    message Record      { map<string, Value> features = 1; map<string, Value> label = 2; ... }

The wire format is written out here: it takes less than the generated code and the run-time library, which a deployed
model would need too. Format: protobuf.dev/programming-guides/encoding; aialgs/proto/record.proto of Amazon SageMaker.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from lab.core.errors import DataError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types."""
FEATURES, KEY, VALUE, FLOAT32_TENSOR, INT32_TENSOR, VALUES = 1, 1, 2, 2, 7, 1
"""Field numbers."""
_FIXED_SIZES = {FIXED64: 8, FIXED32: 4}


def encode_record(features: Mapping[str, Sequence[int] | np.ndarray]) -> bytes:
    """A Record whose features are tensors of float32 or int32, flattened, in the mapping's order; empty ones too."""
    parts = []
    for name, values in features.items():
        array = np.asarray(values)
        is_float = np.issubdtype(array.dtype, np.floating) and array.size > 0
        packed = array.astype("<f4").tobytes() if is_float else b"".join(_varint(int(value)) for value in array.ravel())
        tensor = _field(VALUES, packed) if packed else b""
        kind = FLOAT32_TENSOR if is_float else INT32_TENSOR
        parts.append(_field(FEATURES, _field(KEY, name.encode()) + _field(VALUE, _field(kind, tensor))))
    return b"".join(parts)


def decode_record(payload: bytes, name: str) -> dict[str, np.ndarray]:
    """The features of a Record that are tensors of int32, int64 [length] each; other fields are skipped.

    Raises:
        DataError: not a protobuf message, or truncated; says of which record (`name`).
    """
    try:
        features = {}
        for number, entry in _fields(payload):
            if number == FEATURES and isinstance(entry, bytes):
                parts = dict(_fields(entry))
                key, value = parts.get(KEY, b""), parts.get(VALUE, b"")
                tensors = [tensor for field, tensor in _fields(_bytes(value)) if field == INT32_TENSOR]
                if tensors:
                    features[_bytes(key).decode()] = _int32_values(_bytes(tensors[-1]))
        return features
    except (ValueError, IndexError) as error:
        raise DataError(f"{name} is no protobuf Record", got=error, expected="aialgs Record, see S2S-I2") from error


def _int32_values(tensor: bytes) -> np.ndarray:
    values: list[int] = []
    for number, content in _fields(tensor):
        if number == VALUES:
            # Packed, or one field per value as parsers must accept too.
            values += [_signed(value) for value in ([content] if isinstance(content, int) else _varints(content))]
    return np.asarray(values, np.int64)


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # negative int32 are sign-extended to ten bytes
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _signed(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | BYTES) + _varint(len(content)) + content


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than ten bytes")


def _varints(data: bytes) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _read_varint(data, at)
        yield value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, content) of a message: an int for varints, else bytes."""
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("a field with number 0")
        if wire == VARINT:
            value, at = _read_varint(data, at)
            yield number, value
            continue
        if wire == BYTES:
            size, at = _read_varint(data, at)
        elif wire in _FIXED_SIZES:
            size = _FIXED_SIZES[wire]
        else:
            raise ValueError(f"wire type {wire}")
        if at + size > len(data):
            raise ValueError(f"a field of {size} bytes where {len(data) - at} are left")
        yield number, data[at : at + size]
        at += size


def _bytes(content: int | bytes) -> bytes:
    if isinstance(content, int):
        raise ValueError("a number where a message was expected")
    return content
