"""Files into records, records into requests (EP-60, EP-61, EP-63)."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from lab.core.errors import DataError
from lab.data.records import frame, read_record
from lab.serve.transform.config import SplitType, TransformConfig


def open_input(path: Path, compression: str) -> BinaryIO:
    """The file's bytes, decompressed."""
    return cast(BinaryIO, gzip.open(path, "rb")) if compression == "Gzip" else path.open("rb")


def records_of(file: BinaryIO, name: str, split: SplitType) -> Iterator[bytes]:
    """The records: lines without their ends (empty ones left out), RecordIO payloads, or the whole file.

    Raises:
        DataError: truncated, not RecordIO, not gzip, or not readable.
    """
    try:
        if split == "Line":
            yield from (line for raw in file if (line := raw.rstrip(b"\r\n")))
        elif split == "RecordIO":
            yield from _payloads(file, name)
        else:
            yield file.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{name} is no whole gzip file", got=str(error)) from error
    except OSError as error:
        raise DataError(f"{name} cannot be read", got=error.strerror or str(error)) from error


def _payloads(file: BinaryIO, name: str) -> Iterator[bytes]:
    offset = 0
    while True:
        payload, offset = read_record(file, name, offset)
        if payload is None:
            return
        yield payload


def body_of(records: list[bytes], split: SplitType) -> bytes:
    """Records as a request's body: framed as they were in the file."""
    if split == "Line":
        return b"\n".join(records) + b"\n" if len(records) > 1 else records[0]
    return b"".join(map(frame, records)) if split == "RecordIO" else records[0]


def requests_of(records: Iterable[bytes], config: TransformConfig, name: str) -> Iterator[list[bytes]]:
    """Groups of records, each one request within the payload's limit.

    Raises:
        DataError: a single record is larger than the limit.
    """
    limit = config.max_payload_bytes
    group: list[bytes] = []
    size = 0
    for number, record in enumerate(records, 1):
        length = _framed_bytes(record, config.split_type)
        if limit is not None and length > limit:
            raise DataError(
                f"record {number} of {name} is larger than a request may be", got=f"{length} bytes",
                expected=f"{limit} at most", hint="a split type that makes smaller records, or a larger max_payload_mb",
            )  # fmt: skip
        if group and (config.batch_strategy == "SingleRecord" or (limit is not None and size + length > limit)):
            yield group
            group, size = [], 0
        group.append(record)
        size += length
    if group:
        yield group


def _framed_bytes(record: bytes, split: SplitType) -> int:
    if split == "RecordIO":
        return len(record) + 8 + -len(record) % 4
    return len(record) + (split == "Line")
