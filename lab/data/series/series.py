"""What a time series is, whatever file it came from.

Shape letters: D dynamic features, T time.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lab.core.errors import DataError

_TIME = re.compile(r"\d{4}(-\d\d(-\d\d([ T]\d\d(:\d\d(:\d\d(\.\d+)?)?)?)?)?)?", re.ASCII)
_LARGEST = float(np.finfo(np.float32).max)
"""What the network's numbers can hold."""


@dataclass(frozen=True)
class Series:
    """One series of equally spaced values.

    `start` is a datetime64[s] without time zone, `target_T` float64 with NaN for a missing value. `cat` are 0-based
    category indices. `dynamic_DT` float32 covers the target, and in a request for a forecast also the time to be
    forecast.
    """

    name: str
    start: np.datetime64
    target_T: np.ndarray
    cat: tuple[int, ...] = ()
    static_real: tuple[float, ...] = ()
    dynamic_DT: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.target_T)

    @property
    def num_dynamic(self) -> int:
        return 0 if self.dynamic_DT is None else len(self.dynamic_DT)

    def before(self, origin: int, horizon: int = 0) -> Series:
        """The first `origin` values, with the dynamic features of `horizon` more."""
        dynamic_DT = None if self.dynamic_DT is None else self.dynamic_DT[:, : origin + horizon]
        return replace(self, target_T=self.target_T[:origin], dynamic_DT=dynamic_DT)


def parse_start(text: object, name: str) -> np.datetime64:
    """`YYYY-MM-DD HH:MM:SS` (the time may be left out) as datetime64[s]. Raises DataError."""
    try:
        given = str(text).strip()
        start: np.datetime64 = np.datetime64(given if _TIME.fullmatch(given) else "NaT", "s")
    except ValueError:
        start = np.datetime64("NaT")
    if np.isnat(start):
        raise DataError(
            f"{name}: 'start' is no time", got=text, expected="YYYY-MM-DD HH:MM:SS without a time zone (DAR-I2)"
        )
    return start


def digest(series: Sequence[Series]) -> str:
    """SHA-256 over everything that the series say."""
    total = hashlib.sha256()
    for one in series:
        total.update(f"{one.name}|{one.start}|{one.cat}|{one.static_real}|{len(one)}|".encode())
        total.update(np.ascontiguousarray(one.target_T).tobytes())
        if one.dynamic_DT is not None:
            total.update(np.ascontiguousarray(one.dynamic_DT).tobytes())
    return total.hexdigest()


def from_record(record: Any, name: str, *, horizon: int | None = None) -> Series:
    """One SageMaker record (DAR-I2..I5): start, target, cat, dynamic_feat, and our feat_static_real, item_id.

    Args:
        name: stands for the record in messages, and is its name where it has no item_id.
        horizon: a request's: dynamic features must cover so many steps after the target, or more.

    Raises:
        DataError: a field is missing or cannot be used.
    """
    if not isinstance(record, dict) or "start" not in record or "target" not in record:
        got = sorted(record) if isinstance(record, dict) else type(record).__name__
        raise DataError(f"{name} is no series", got=got, expected="an object with start and target (DAR-I2)")
    target_T = _values(record["target"], f"{name}: target", missing=True)
    return Series(
        name=str(record.get("item_id", name)),
        start=parse_start(record["start"], name),
        target_T=target_T,
        cat=_categories(record.get("cat", record.get("feat_static_cat")), name),
        static_real=tuple(_values(record.get("feat_static_real") or [], f"{name}: feat_static_real").tolist()),
        dynamic_DT=_dynamic(record.get("dynamic_feat") or None, len(target_T), horizon, name),
    )


def to_record(series: Series) -> dict[str, Any]:
    """`from_record` undone; missing values become None."""
    record: dict[str, Any] = {
        "item_id": series.name,
        "start": str(series.start).replace("T", " "),
        "target": [None if np.isnan(value) else value for value in series.target_T.tolist()],
    }
    if series.cat:
        record["cat"] = list(series.cat)
    if series.static_real:
        record["feat_static_real"] = list(series.static_real)
    if series.dynamic_DT is not None:
        record["dynamic_feat"] = series.dynamic_DT.tolist()
    return record


def _values(raw: Any, what: str, *, missing: bool = False) -> np.ndarray:
    """Numbers as float64 [n]; null and "NaN" become NaN where values may be missing. Raises DataError."""
    try:
        values = np.asarray([np.nan if value is None else float(value) for value in raw], np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{what} has something other than numbers", got=error) from error
    unusable = np.abs(values) > _LARGEST
    if not missing:
        unusable |= np.isnan(values)
    if unusable.any():
        where = int(np.flatnonzero(unusable)[0])
        expected = 'finite numbers, null or "NaN" (DAR-I3)' if missing else "finite numbers; none may be missing"
        raise DataError(f"{what} cannot be used", got=f"{values[where]} at position {where}", expected=expected)
    return values


def _categories(raw: Any, name: str) -> tuple[int, ...]:
    values = [] if raw is None else raw if isinstance(raw, list | tuple | np.ndarray) else [raw]
    if any(isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0 for value in values):
        raise DataError(f"{name}: cat cannot be used", got=list(values), expected="0-based indices (DAR-I4)")
    return tuple(int(value) for value in values)


def _dynamic(raw: Any, length: int, horizon: int | None, name: str) -> np.ndarray | None:
    """Of a request, which may reach further than needed, everything is kept."""
    if raw is None:
        return None
    if not isinstance(raw, list | tuple | np.ndarray):
        raise DataError(
            f"{name}: dynamic_feat is no list", got=type(raw).__name__, expected="a list per feature (DAR-I5)"
        )
    rows = [_values(row, f"{name}: dynamic_feat[{index}]") for index, row in enumerate(raw)]
    wanted = length + (horizon or 0)
    for index, row in enumerate(rows):
        if len(row) < wanted or (horizon is None and len(row) != wanted):
            what = f"{length} of the target" + (f" + {horizon} to be forecast" if horizon else "")
            raise DataError(
                f"{name}: dynamic_feat[{index}] has the wrong length",
                got=f"{len(row)} values",
                expected=f"{wanted} values: {what} (DAR-I5)",
            )
    shortest = min(map(len, rows))
    return np.stack([row[:shortest] for row in rows]).astype(np.float32)
