"""The calendar against pandas' periods, the lags against the lists that GluonTS and SageMaker's page give."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lab.core.errors import ConfigError
from lab.data.series.frequency import Frequency

START = "2015-12-27 05:17"
_ALL = ["Y", "Q", "M", "3M", "W", "2W", "D", "3D", "H", "2H", "5H", "min", "15min"]


def periods(text: str, count: int) -> pd.PeriodIndex:
    alias = text.replace("H", "h")
    return pd.period_range(pd.Period(START, freq=alias), periods=count, freq=alias)


def expected_features(text: str, index: pd.PeriodIndex) -> list[np.ndarray]:
    def scaled(values: object, count: int) -> np.ndarray:
        return np.asarray(values, float) / (count - 1) - 0.5

    week = index.to_timestamp(how="start").isocalendar().week.to_numpy()
    columns = {
        "minute": scaled(index.minute, 60),
        "hour": scaled(index.hour, 24),
        "weekday": scaled(index.day_of_week, 7),
        "day": scaled(index.day - 1, 31),
        "day_of_year": scaled(index.day_of_year - 1, 366),
        "week": scaled(week - 1, 53),
        "month": scaled(index.month - 1, 12),
    }
    days = ["weekday", "day", "day_of_year"]
    names = {"Y": [], "Q": ["month"], "M": ["month"], "W": ["day", "week"], "D": days, "H": ["hour", *days]}
    return [columns[name] for name in names.get(text.lstrip("0123456789"), ["minute", "hour", *days])]


@pytest.mark.parametrize("text", _ALL)
def test_features_are_those_of_pandas_periods(text: str) -> None:
    frequency, count = Frequency.parse(text), 1500
    ordinals = frequency.ordinal(np.datetime64(START.replace(" ", "T"))) + frequency.step * np.arange(count)
    found = frequency.features(ordinals)
    expected = expected_features(text, periods(text, count))
    assert found.shape == (count, len(expected)) == (count, frequency.num_features)
    for column, values in zip(found.T, expected, strict=True):
        np.testing.assert_allclose(column, values, atol=1e-6)


@pytest.mark.parametrize("text", ["Y", "Q", "M", "3M", "D", "H", "15min"])
def test_time_stamps_are_the_beginnings_of_pandas_periods(text: str) -> None:
    found = Frequency.parse(text).stamps(np.datetime64(START.replace(" ", "T")), 50)
    expected = periods(text, 50).to_timestamp(how="start").to_numpy().astype("datetime64[s]")
    assert (found == expected).all()


def around(*middles: int) -> list[int]:
    return [lag for middle in middles for lag in (middle - 1, middle, middle + 1)]


NEAR = list(range(1, 8))
LAGS = {  # as printed by GluonTS 0.17's get_lags_for_frequency
    "M": [*NEAR, *around(12, 24, 36)],
    "Q": [*NEAR, 8, 9, 11, 12, 13],
    "W": [*NEAR, 8, 12, *around(52, 104, 156)],
    "D": [*NEAR, 8, *around(14, 21), 27, 28, 29, 30, 31, 56, 84, *around(364, 728, 1092)],
    "H": [*NEAR, *around(24, 48, 72, 96, 120, 144, 168, 336, 504, 672, 720)],
    "Y": NEAR,
}


@pytest.mark.parametrize("text", sorted(LAGS))
def test_lags(text: str) -> None:
    assert list(Frequency.parse(text).lags()) == LAGS[text]


def test_minutes_look_back_hours_and_days() -> None:
    lags = Frequency.parse("min").lags()
    assert [lag for lag in lags if lag < 200] == [*NEAR, *range(58, 63), *range(118, 123), *range(178, 183)]
    assert max(lags) <= 1200
    quarters = Frequency.parse("15min").lags()
    assert {95, 96, 97, 671, 672, 673} <= set(quarters)


@pytest.mark.parametrize("text", ["", "0M", "fortnight", "M2", "-1D", "2Q", "1.5H", "B"])
def test_what_is_no_frequency_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        Frequency.parse(text)


def test_pandas_new_spellings_mean_the_same() -> None:
    for old, new in [("M", "ME"), ("Q", "QE"), ("Y", "YE"), ("H", "h"), ("min", "T"), ("2H", " 2h ")]:
        assert Frequency.parse(old) == Frequency.parse(new)
    assert str(Frequency.parse("15T")) == "15min"


def test_seasons() -> None:
    assert [Frequency.parse(text).season for text in ("M", "3M", "Q", "D", "H", "2H", "Y")] == [12, 4, 4, 7, 24, 12, 1]
