"""Parquet with one series per row: columns start, target, cat, dynamic_feat as in JSON Lines (DAR-I1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.artifacts.files import atomic_path
from lab.core.errors import DataError, MissingToolError
from lab.data.series.files import ReadOptions
from lab.data.series.series import Series, from_record, to_record


def read(path: Path, options: ReadOptions) -> list[Series]:
    """All series of a file. Raises DataError naming file and row."""
    rows = read_table(path).to_pylist()
    return [
        from_record(_without_nulls(row), f"{path}:{number}", horizon=options.horizon)
        for number, row in enumerate(rows, start=1)
    ]


def read_table(path: Path) -> Any:
    """The file as a pyarrow table. Raises DataError, MissingToolError."""
    pyarrow, parquet = _pyarrow()
    try:
        return parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path} cannot be read", got=error, expected="a Parquet file") from error


def write(series: Sequence[Series], path: Path) -> None:
    """One row per series. Raises StorageError, MissingToolError."""
    pyarrow, parquet = _pyarrow()
    records = [to_record(one) for one in series]
    names = dict.fromkeys(name for record in records for name in record)
    columns = {name: [record.get(name) for record in records] for name in names}
    with atomic_path(path) as temporary:
        parquet.write_table(pyarrow.table(columns), temporary)


def _without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingToolError("Parquet needs pyarrow", hint="pip install 'lab[train]'") from error
    return pyarrow, parquet
