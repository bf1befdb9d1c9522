"""SimBench's load profiles: quarter-hours of 2016 as a table of semicolons, here as means per hour."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lab.core.errors import DataError
from lab.data.series.jsonl import content_of
from lab.data.series.series import Series

_PER_HOUR = 4


def read_hourly(path: Path) -> list[Series]:
    """One series per active-power profile that is not all zero and no copy of an earlier one, means per hour.

    Raises:
        DataError: not such a file.
    """
    lines = content_of(path).decode().splitlines()
    names = lines[0].split(";") if lines else []
    chosen = [column for column, name in enumerate(names) if name.endswith("_pload")]
    try:
        values_TN = np.loadtxt(lines[1:], delimiter=";", usecols=chosen, ndmin=2)
        day, time = lines[1].split(";")[0].split(" ")
        start = np.datetime64("-".join(reversed(day.split("."))) + f"T{time}:00", "s")
    except (ValueError, IndexError) as error:
        raise DataError(f"{path} cannot be read", got=error, expected="SimBench's LoadProfile.csv") from error
    num_hours = len(values_TN) // _PER_HOUR
    hourly_TN = values_TN[: num_hours * _PER_HOUR].reshape(num_hours, _PER_HOUR, -1).mean(axis=1)
    _, first = np.unique(hourly_TN, axis=1, return_index=True)
    return [
        Series(names[chosen[column]].removesuffix("_pload"), start, np.ascontiguousarray(hourly_TN[:, column]))
        for column in sorted(first)
        if hourly_TN[:, column].any()
    ]
