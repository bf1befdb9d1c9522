"""RecordIO's framing: payloads one after the other, each behind a magic number and a word of part and length.

A record is the magic number, a word of 3 bits (part of a split record) and 29 bits (length), the payload, zeros up to a
multiple of 4. A payload that holds the magic number at a multiple of 4 is split there, and the magic number left out.
Format: dmlc-core src/recordio.cc. SageMaker's pipe mode and protobuf bodies are framed so too.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from lab.core.errors import DataError

MAGIC = struct.pack("<I", 0xCED7230A)
MAX_RECORD_BYTES = (1 << 29) - 1
WHOLE, FIRST, MIDDLE, LAST = range(4)
"""Which part of a split record; WHOLE: not split."""


def frame(payload: bytes) -> bytes:
    """One record as it lies in the file. Raises DataError when it is too long for the format."""
    if len(payload) > MAX_RECORD_BYTES:
        raise DataError("too long for a record", got=f"{len(payload)} bytes", expected=f"<= {MAX_RECORD_BYTES}")
    pieces, start = [], 0
    position = payload.find(MAGIC)
    while position >= 0:
        if position % 4 == 0:
            pieces += [_head(MIDDLE if start else FIRST, position - start), payload[start:position]]
            start = position + 4
        position = payload.find(MAGIC, start if position < start else position + 1)
    pieces += [_head(LAST if start else WHOLE, len(payload) - start), payload[start:], bytes(-len(payload) % 4)]
    return b"".join(pieces)


def _head(part: int, length: int) -> bytes:
    return MAGIC + struct.pack("<I", part << 29 | length)


def read_record(file: BinaryIO, name: str, offset: int) -> tuple[bytes | None, int]:
    """(payload, offset after it) of the record that begins at `offset`, where `file` stands; None at the end.

    Raises:
        DataError: truncated, or not a record; names file and offset.
    """
    pieces: list[bytes] = []
    expected = (WHOLE, FIRST)
    while True:
        part, length = _read_head(file, name, offset, expected, at_start=not pieces)
        if part < 0:
            return None, offset
        padded = file.read(length + -length % 4)
        if len(padded) != length + -length % 4:
            raise broken_record(name, offset, f"the file ends {len(padded)} bytes into a record of {length}")
        offset += 8 + len(padded)
        pieces.append(padded[:length])
        if part in (WHOLE, LAST):
            return MAGIC.join(pieces), offset
        expected = (MIDDLE, LAST)


def _read_head(
    file: BinaryIO, name: str, offset: int, expected: tuple[int, int], *, at_start: bool = True
) -> tuple[int, int]:
    """(part, length); part -1 at the end of the file."""
    head = file.read(8)
    if not head and at_start:
        return -1, 0
    if len(head) < 8:
        raise broken_record(name, offset, f"the file ends within a record's header ({len(head)} of 8 bytes)")
    if head[:4] != MAGIC:
        raise broken_record(name, offset, f"a record begins with 0a23d7ce, not with {head[:4].hex()}")
    word = int.from_bytes(head[4:], "little")
    if word >> 29 not in expected:
        raise broken_record(name, offset, f"part {word >> 29} of a split record where {expected} were possible")
    return word >> 29, word & MAX_RECORD_BYTES


def broken_record(name: str, offset: int, reason: str) -> DataError:
    """The error to raise for a damaged place of a file."""
    return DataError(
        f"{name} is damaged or truncated at byte {offset}", got=reason, hint="copy or make the .rec file again"
    )


def scan(path: Path) -> list[int]:
    """The offset of every record, from their headers alone. Raises DataError naming the damaged place."""
    offsets, offset, size = [], 0, rec_size(path)
    expected = (WHOLE, FIRST)
    with path.open("rb") as file:
        while offset < size or expected[0] != WHOLE:
            part, length = _read_head(file, str(path), offset, expected, at_start=expected[0] == WHOLE)
            if expected[0] == WHOLE:
                offsets.append(offset)
            expected = (WHOLE, FIRST) if part in (WHOLE, LAST) else (MIDDLE, LAST)
            end = offset + 8 + length + -length % 4
            if end > size:
                raise broken_record(
                    str(path), offset, f"the file ends {max(size - offset - 8, 0)} bytes into a record of {length}"
                )
            offset = end
            file.seek(offset)
    return offsets


def rec_size(path: Path) -> int:
    """Bytes of a file. Raises DataError when there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError as error:
        raise DataError(f"there is no .rec file at {path}") from error


def parse_index(text: str, name: str) -> list[int]:
    """Offsets, ascending, from the text of an `.idx` file: "key TAB offset" per line. Raises DataError."""
    offsets = []
    for number, line in enumerate(text.splitlines(), 1):
        parts = line.split("\t")
        if len(parts) != 2 or not parts[1].strip().isdigit():
            raise DataError(f"{name}:{number} is no line of an index", got=repr(line[:80]), expected="key TAB offset")
        offsets.append(int(parts[1]))
    return sorted(offsets)
