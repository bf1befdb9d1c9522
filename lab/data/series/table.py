"""A long table, CSV or Parquet: one row per series and time stamp, with columns id, time and value (or as named).

Steps that are left out are missing values. Rows of one series must be in order of time.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lab.artifacts.files import atomic_path
from lab.core.errors import DataError
from lab.data.series.files import ReadOptions
from lab.data.series.frequency import Frequency
from lab.data.series.jsonl import content_of
from lab.data.series.parquet import read_table
from lab.data.series.series import Series

Columns = dict[str, np.ndarray]


def read(path: Path, options: ReadOptions) -> list[Series]:
    """The series in the order of their first rows.

    Raises:
        DataError: a column is missing, or the rows of a series are unsorted, repeated or off the frequency.
    """
    columns = _parquet(path) if path.suffix == ".parquet" else _csv(path)
    wanted = (options.id, options.time, options.value, *options.cat, *options.static_real, *options.dynamic)
    missing = sorted(set(wanted) - set(columns))
    if missing:
        raise DataError(
            f"{path} lacks columns",
            got=", ".join(columns),
            expected=", ".join(missing),
            hint="name the columns: data.columns.id, .time, .value",
        )
    names, first_rows, member = np.unique(columns[options.id].astype(str), return_index=True, return_inverse=True)
    order = np.argsort(first_rows)
    rows_of = np.split(np.argsort(member, kind="stable"), np.cumsum(np.bincount(member))[:-1])
    return [_one(str(names[index]), {n: columns[n][rows_of[index]] for n in wanted}, options, path) for index in order]


def write(series: Sequence[Series], path: Path, frequency: Frequency) -> None:
    """id, time, value and a column d0, d1, ... per dynamic feature, as CSV; missing values are left out."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    num_dynamic = max((one.num_dynamic for one in series), default=0)
    writer.writerow(["id", "time", "value", *(f"d{number}" for number in range(num_dynamic))])
    for one in series:
        stamps = frequency.stamps(one.start, len(one)).astype(str)
        for step in np.flatnonzero(~np.isnan(one.target_T)):
            dynamic = [] if one.dynamic_DT is None else one.dynamic_DT[:, step].tolist()
            writer.writerow([one.name, stamps[step].replace("T", " "), repr(float(one.target_T[step])), *dynamic])
    content = text.getvalue().encode()
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def _csv(path: Path) -> Columns:
    rows = list(csv.reader(io.StringIO(content_of(path).decode("utf-8-sig", errors="replace"))))
    if len(rows) < 2:
        raise DataError(f"{path} has no rows", expected="a line of column names, then one row per value")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(rows[0]):
            raise DataError(f"{path}:{number} has another number of columns", got=len(row), expected=len(rows[0]))
    return {name: np.asarray(column) for name, column in zip(rows[0], zip(*rows[1:], strict=True), strict=True)}


def _parquet(path: Path) -> Columns:
    table = read_table(path)
    return {name: np.asarray(table.column(name).to_numpy()) for name in table.column_names}


def _one(name: str, columns: Columns, options: ReadOptions, path: Path) -> Series:
    where = f"{path}: series '{name}'"
    stamps = _times(columns[options.time], where)
    steps = _steps(stamps, options.frequency, where)
    length = int(steps[-1]) + 1
    target_T = np.full(length, np.nan)
    target_T[steps] = _numbers(columns[options.value], f"{where}, {options.value}", missing=True)
    dynamic_DT = None
    if options.dynamic:
        if len(steps) != length:
            raise DataError(
                f"{where}: time stamps are left out, so its dynamic features have gaps",
                got=f"{len(steps)} rows for {length} steps",
                expected="a row for every step (DAR-I3); an empty value where it is missing",
            )
        dynamic_DT = np.stack([_numbers(columns[n], f"{where}, {n}") for n in options.dynamic]).astype(np.float32)
    return Series(
        name=name,
        start=stamps[0],
        target_T=target_T,
        cat=tuple(_category(columns[n], f"{where}, {n}") for n in options.cat),
        static_real=tuple(float(_numbers(columns[n], f"{where}, {n}")[0]) for n in options.static_real),
        dynamic_DT=dynamic_DT,
    )


def _times(raw: np.ndarray, where: str) -> np.ndarray:
    try:
        stamps: np.ndarray = raw.astype("datetime64[s]")
    except ValueError as error:
        raise DataError(f"{where}: a time cannot be read", got=error, expected="YYYY-MM-DD HH:MM:SS") from error
    if np.isnat(stamps).any():
        raise DataError(f"{where}: a time is missing", got=f"row {int(np.isnat(stamps).argmax()) + 1} of the series")
    return stamps


def _steps(stamps: np.ndarray, frequency: Frequency, where: str) -> np.ndarray:
    """The step of each row, counted from the first. Raises DataError when the rows do not fit the frequency."""
    ordinals = np.asarray([frequency.ordinal(stamp) for stamp in stamps]) if len(stamps) else np.zeros(0, int)
    ordinals -= ordinals[0]
    gaps = np.diff(ordinals)
    unsorted, repeated = np.flatnonzero(np.diff(stamps) < np.timedelta64(0, "s")), np.flatnonzero(gaps == 0)
    if len(unsorted):
        row = int(unsorted[0])
        raise DataError(
            f"{where}: the rows are not in order of time",
            got=f"{stamps[row + 1]} after {stamps[row]}",
            expected="ascending times",
            hint="sort the table by id and time",
        )
    if len(repeated):
        row = int(repeated[0])
        raise DataError(
            f"{where}: two rows fall into the same step of {frequency}",
            got=f"{stamps[row]} and {stamps[row + 1]}",
            expected="one row per step",
            hint="aggregate the rows, or set data.time_freq to the table's own frequency",
        )
    off = np.flatnonzero(ordinals % frequency.step)
    if len(off):
        raise DataError(
            f"{where}: a time does not fit the frequency {frequency}",
            got=f"{stamps[int(off[0])]}, with the first at {stamps[0]}",
            expected=f"times a multiple of {frequency} apart",
            hint="set data.time_freq to the table's own frequency",
        )
    steps: np.ndarray = ordinals // frequency.step
    return steps


def _numbers(raw: np.ndarray, where: str, *, missing: bool = False) -> np.ndarray:
    try:
        text: Any = np.where(raw == "", "nan", raw) if raw.dtype.kind in "US" else raw
        values: np.ndarray = np.asarray(text).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where} has something other than numbers", got=error) from error
    if np.isinf(values).any() or (not missing and np.isnan(values).any()):
        raise DataError(f"{where} has values that are missing or not finite", expected="finite numbers")
    return values


def _category(raw: np.ndarray, where: str) -> int:
    values = np.unique(_numbers(raw, where))
    if len(values) != 1 or values[0] < 0 or values[0] != int(values[0]):
        raise DataError(f"{where} is no category", got=values[:5].tolist(), expected="one 0-based integer per series")
    return int(values[0])
