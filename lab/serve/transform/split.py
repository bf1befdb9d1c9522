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


def records_of(file: BinaryIO, name: str, split: SplitType, limit: int | None = None) -> Iterator[bytes]:
    """The records: lines without their ends (empty ones left out), RecordIO payloads, or the whole file.

    Args:
        limit: bytes of a record; of a longer one no more is read (a few kilobytes of gzip can hold gigabytes).

    Raises:
        DataError: truncated, not RecordIO, not gzip, not readable, or a record beyond the limit.
    """
    most = -1 if limit is None else limit + len(b"\r\n") + 1
    try:
        if split == "Line":
            for number, raw in enumerate(iter(lambda: file.readline(most), b""), 1):
                line = raw.rstrip(b"\r\n")
                check_size(len(line), limit, number, name)
                if line:
                    yield line
        elif split == "RecordIO":
            yield from _payloads(file, name)
        else:
            whole = file.read(most)
            check_size(len(whole), limit, 1, name)
            yield whole
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
        check_size(length, limit, number, name)
        if group and (config.batch_strategy == "SingleRecord" or (limit is not None and size + length > limit)):
            yield group
            group, size = [], 0
        group.append(record)
        size += length
    if group:
        yield group


def check_size(size: int, limit: int | None, number: int, name: str) -> None:
    """Raises DataError when a record is larger than a request may be."""
    if limit is not None and size > limit:
        raise DataError(
            f"record {number} of {name} is larger than a request may be", got=f"{size} bytes or more",
            expected=f"{limit} at most", hint="a split type that makes smaller records, or a larger max_payload_mb",
        )  # fmt: skip


def _framed_bytes(record: bytes, split: SplitType) -> int:
    if split == "RecordIO":
        return len(record) + 8 + -len(record) % 4
    return len(record) + (split == "Line")
