"""The series of a path: one file, or a folder searched as SageMaker searches a channel (DAR-I1)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from lab.core.errors import DataError
from lab.core.tables import LazyTable
from lab.data.series.frequency import Frequency
from lab.data.series.series import Series

READERS = LazyTable(
    "format of series", {name: f"lab.data.series.{name}:read" for name in ("jsonl", "parquet", "table")}
)
SUFFIXES = {
    "jsonl": (".json", ".jsonl", ".json.gz", ".jsonl.gz"),
    "parquet": (".parquet",),
    "table": (".csv", ".csv.gz", ".parquet"),
}
"""By the end of the name, in lower case; a file that is named itself may have any."""


@dataclass(frozen=True)
class ReadOptions:
    """What a reader may need to know beside the path.

    The rest is for long tables: the columns of the series' id, the time stamp and the value, of categories (0-based
    integers, one value per series), of numbers that stay the same and of those that change with time.
    """

    frequency: Frequency
    horizon: int | None = None
    id: str = "id"
    time: str = "time"
    value: str = "value"
    cat: tuple[str, ...] = ()
    static_real: tuple[str, ...] = ()
    dynamic: tuple[str, ...] = ()


def files_of(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The file itself, or those of known type below a folder, without names that begin with "." and `_SUCCESS`.

    Raises:
        DataError: nothing there.
    """
    if path.is_file():
        return [path]
    found = []
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        kept = (name for name in names if not name.startswith(".") and name != "_SUCCESS")
        found += [Path(folder) / name for name in sorted(kept) if name.lower().endswith(suffixes)]
    if not found:
        raise DataError(
            f"there are no series at {path}",
            got="a folder without such files" if path.is_dir() else "nothing there",
            expected="a file, or a folder with " + ", ".join(suffixes) + " files",
        )
    return found


def read_series(path: Path, kind: str, options: ReadOptions) -> list[Series]:
    """All series below a path, in the order of the files' names.

    Raises:
        DataError: nothing there, or a file that cannot be understood; names the file and the record.
        ConfigError: unknown format.
    """
    read = READERS[kind]
    found = [series for file in files_of(path, SUFFIXES[kind]) for series in read(file, options)]
    if not found:
        raise DataError(f"there are no series in {path}", got="empty files", expected="one or more series")
    return found
