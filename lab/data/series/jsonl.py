"""JSON Lines, plain or gzipped: one series per line (DAR-I2)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from lab.artifacts.files import atomic_path
from lab.core.errors import DataError
from lab.data.series.files import ReadOptions
from lab.data.series.series import Series, from_record, to_record

_GZIP_MAGIC = b"\x1f\x8b"


def read(path: Path, options: ReadOptions) -> list[Series]:
    """All series of a file. Raises DataError naming file and line."""
    found = []
    for name, item in parse_lines(content_of(path), str(path), horizon=options.horizon):
        if isinstance(item, DataError):
            raise DataError(f"{name} cannot be read", got=item, expected="one JSON object per line (DAR-I2)") from item
        found.append(item)
    return found


def content_of(path: Path) -> bytes:
    """The file's bytes, unpacked where they are gzip's. Raises DataError."""
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(_GZIP_MAGIC) else content
    except FileNotFoundError as error:
        raise DataError(f"there is no file at {path}") from error
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read", got=error) from error


def parse_lines(content: bytes, name: str, *, horizon: int | None = None) -> Iterator[tuple[str, Series | DataError]]:
    """(name of the line, series or what is wrong with it) for every line that is not blank."""
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        try:
            yield where, from_record(json.loads(line), where, horizon=horizon)
        except DataError as error:
            yield where, error
        except (ValueError, RecursionError) as error:
            yield where, DataError(f"{where} is no JSON", got=error, expected="one object per line (DAR-I2)")


def write(series: Sequence[Series], path: Path) -> None:
    """One line per series; gzipped where the name ends in .gz. Raises StorageError."""
    text = "".join(json.dumps(to_record(one)) + "\n" for one in series).encode()
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)
