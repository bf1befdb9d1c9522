"""A series' calendar: its frequency, the features of its time stamps, and the lags that carry its seasons.

Features and lags are those of GluonTS (`time_features_from_frequency_str`, `get_lags_for_frequency`), which are also
those that Amazon SageMaker documents (DAR-I7, DAR-I8). Time stamps are numpy's, so that a deployed bundle needs no
pandas. Shape letters: F features, T time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from lab.core.errors import ConfigError

MAX_LAG = 1200
NUM_NEAR_LAGS = 7
_PATTERN = re.compile(r"\s*([1-9]\d*)?\s*(YE|QE|ME|MS|min|Y|Q|M|W|D|H|h|T)\s*")
_ALIASES = {"YE": "Y", "QE": "Q", "ME": "M", "MS": "M", "h": "H", "T": "min"}
_NUMPY_UNITS = {"Y": "Y", "Q": "M", "M": "M", "W": "D", "D": "D", "H": "h", "min": "m"}
_UNITS_PER_PERIOD = {"Q": 3, "W": 7}
_SEASONS = {"Y": 1, "Q": 4, "M": 12, "W": 52, "D": 7, "H": 24, "min": 1440}
_THURSDAY, _SUNDAY = 3, 6


@dataclass(frozen=True)
class Frequency:
    """Every `multiple` of `unit`: Y, Q, M, W (ending on Sundays), D, H or min."""

    multiple: int
    unit: str

    @classmethod
    def parse(cls, text: str) -> Frequency:
        """`<int?>` and a unit, such as M, 2H or 15min (DAR-H4; pandas' ME, QE, YE, h and T are understood too).

        Raises:
            ConfigError: anything else.
        """
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise ConfigError(
                "the frequency is not understood", got=text, expected="e.g. Y, Q, M, W, D, H, min, 2H or 15min"
            )
        unit = _ALIASES.get(match[2], match[2])
        multiple = int(match[1] or 1)
        if unit in ("Y", "Q") and multiple > 1:
            raise ConfigError("years and quarters have no multiples", got=text, expected="Y, Q, or months such as 6M")
        return cls(multiple, unit)

    def __str__(self) -> str:
        return f"{self.multiple if self.multiple > 1 else ''}{self.unit}"

    @property
    def step(self) -> int:
        """Numpy units from one time stamp to the next."""
        return self.multiple * _UNITS_PER_PERIOD.get(self.unit, 1)

    @property
    def season(self) -> int:
        """Steps of the usual season: a year of months, a week of days, a day of hours; 1 where there is none."""
        return max(1, _SEASONS[self.unit] // self.multiple)

    def ordinal(self, start: np.datetime64) -> int:
        """The time stamp as a number of numpy units since 1970, rounded down to the start of its period."""
        number = int(start.astype(f"datetime64[{_NUMPY_UNITS[self.unit]}]").astype(np.int64))
        if self.unit == "Q":
            number -= number % 3
        if self.unit == "W":
            number -= (number + _THURSDAY) % 7
        return number

    def stamps(self, start: np.datetime64, count: int) -> np.ndarray:
        """`count` time stamps from `start` on as datetime64[s], each the beginning of its period."""
        return self.of_ordinals(self.ordinal(start) + self.step * np.arange(count)).astype("datetime64[s]")

    def of_ordinals(self, ordinals_T: np.ndarray) -> np.ndarray:
        """Ordinals as datetime64 of this frequency's numpy unit."""
        return ordinals_T.astype(f"datetime64[{_NUMPY_UNITS[self.unit]}]")

    @property
    def num_features(self) -> int:
        return len(_FEATURES_OF[self.unit])

    def features(self, ordinals_T: np.ndarray) -> np.ndarray:
        """Calendar features float32 [T, F], each in -0.5..0.5 (DAR-I7).

        Of a week they are its Sunday's, of a quarter its last month's, as pandas' periods have it.
        """
        shift = {"W": _SUNDAY, "Q": 2}.get(self.unit, 0)
        stamps_T = self.of_ordinals(ordinals_T + shift)
        columns = [_FEATURES[name](stamps_T) for name in _FEATURES_OF[self.unit]]
        return np.stack(columns, axis=-1).astype(np.float32) if columns else np.zeros((*stamps_T.shape, 0), np.float32)

    def lags(self, max_lag: int = MAX_LAG) -> tuple[int, ...]:
        """Steps back at which the network sees the series: the nearest 7, and the same season of earlier cycles."""
        found = {int(lag) for lag in _season_lags(self) if NUM_NEAR_LAGS < lag <= max_lag}
        return (*range(1, min(NUM_NEAR_LAGS, max_lag) + 1), *sorted(found))


def _scaled(values: np.ndarray, count: int) -> np.ndarray:
    scaled: np.ndarray = values.astype(np.int64) / (count - 1) - 0.5
    return scaled


def _since(stamps: np.ndarray, unit: str, whole: str) -> np.ndarray:
    """How many `unit`s have passed since the beginning of the `whole` that the stamp lies in."""
    fine = stamps.astype(f"datetime64[{unit}]")
    passed: np.ndarray = (fine - stamps.astype(f"datetime64[{whole}]").astype(fine.dtype)).astype(np.int64)
    return passed


def _weekday(stamps: np.ndarray) -> np.ndarray:
    # 1970 began on a Thursday; weeks begin on Mondays.
    weekday: np.ndarray = (stamps.astype("datetime64[D]").astype(np.int64) + _THURSDAY) % 7
    return weekday


def _iso_week(stamps: np.ndarray) -> np.ndarray:
    # ISO 8601: a week belongs to the year of its Thursday.
    thursdays = stamps.astype("datetime64[D]") + (_THURSDAY - _weekday(stamps))
    return _since(thursdays, "D", "Y") // 7


_FEATURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "minute_of_hour": lambda stamps: _scaled(_since(stamps, "m", "h"), 60),
    "hour_of_day": lambda stamps: _scaled(_since(stamps, "h", "D"), 24),
    "day_of_week": lambda stamps: _scaled(_weekday(stamps), 7),
    "day_of_month": lambda stamps: _scaled(_since(stamps, "D", "M"), 31),
    "day_of_year": lambda stamps: _scaled(_since(stamps, "D", "Y"), 366),
    "week_of_year": lambda stamps: _scaled(_iso_week(stamps), 53),
    "month_of_year": lambda stamps: _scaled(_since(stamps, "M", "Y"), 12),
}
_DAYS = ("day_of_week", "day_of_month", "day_of_year")
_FEATURES_OF: dict[str, tuple[str, ...]] = {
    "Y": (),
    "Q": ("month_of_year",),
    "M": ("month_of_year",),
    "W": ("day_of_month", "week_of_year"),
    "D": _DAYS,
    "H": ("hour_of_day", *_DAYS),
    "min": ("minute_of_hour", "hour_of_day", *_DAYS),
}


def _around(cycle: int, per_step: float, num_cycles: int, delta: int = 1) -> Iterable[float]:
    """The lags within `delta` of 1, 2, ... cycles; a cycle and a step are in the same unit of time."""
    for number in range(1, num_cycles + 1):
        middle = number * cycle // per_step
        yield from (middle + offset for offset in range(-delta, delta + 1))


def _season_lags(frequency: Frequency) -> Iterable[float]:
    """Hours of minutes, days of hours, weeks and a month of days, years of weeks and of months."""
    multiple, unit = frequency.multiple, frequency.unit
    hours = {"H": multiple, "min": multiple / 60}.get(unit)
    days = {"D": multiple, "H": multiple / 24, "min": multiple / 1440}.get(unit)
    weeks = {"W": multiple, "D": multiple / 7, "H": multiple / 168, "min": multiple / 10080}.get(unit)
    months = {"Q": 3, "M": multiple}.get(unit)
    if unit == "min":
        yield from _around(60, multiple, 3, delta=2)
    if hours is not None:
        yield from _around(24, hours, 7)
    if days is not None:
        yield from _around(7, days, 4)
        yield from _around(30, days, 1)
    if weeks is not None:
        yield from _around(52, weeks, 3)
        yield from (number // weeks for number in (4, 8, 12))
    if months is not None:
        yield from _around(12, months, 3)
