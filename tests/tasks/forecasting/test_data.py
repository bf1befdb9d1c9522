"""Which values are for training, validation and test; what is ignored and what is refused; which windows are drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab.core.errors import ConfigError, DataError
from lab.data.series import jsonl
from lab.data.series.series import Series
from lab.tasks.forecasting.data import SeriesSplits, training_part
from lab.tasks.forecasting.learn import ForecastingTask
from lab.tasks.forecasting.loaders import MIN_PAST, window_weights
from tests.tasks.forecasting.conftest import config_of
from tests.tasks.forecasting.tiny import HORIZON, NUM_SERIES, tiny_config, tiny_series

START = np.datetime64("2020-01-01T00:00:00", "s")


def splits_of(folder: Path, **sections: dict[str, Any]) -> SeriesSplits:
    raw = tiny_config(folder)
    for name, section in sections.items():
        raw[name] = raw.get(name, {}) | section
    return SeriesSplits(config_of(raw))


def test_test_validation_and_training_follow_each_other(folder: Path) -> None:
    splits = splits_of(folder)
    for name, series in (("test", splits.test), ("validation", splits.train)):
        windows = splits.windows(name)
        assert len(windows) == NUM_SERIES
        for index in range(len(windows)):
            sample = windows[index]
            assert len(sample.input) == len(series[index]) - HORIZON
            np.testing.assert_array_equal(sample.label.target_P, series[index].target_T[-HORIZON:])
            assert sample.input.dynamic_DT.shape[1] == len(sample.input) + HORIZON
    ends = [len(one) for one in training_part(splits)]
    assert ends == [len(one) - HORIZON for one in splits.train]
    whole = splits_of(folder, data={"hold_out": False})
    assert [len(one) for one in training_part(whole)] == [len(one) for one in whole.train]


def test_without_a_test_channel_the_end_validates(folder: Path) -> None:
    splits = splits_of(folder, data={"test": None}, backtest={"num_windows": 3, "stride": 2})
    assert not splits.has("test")
    assert splits.final == "validation"
    windows = splits.windows("validation")
    first = [len(windows[index].input) - len(splits.train[0]) for index in range(3)]
    assert first == [-HORIZON - 4, -HORIZON - 2, -HORIZON]
    assert len(windows) == 3 * NUM_SERIES
    assert training_part(splits)[0].target_T.size == len(splits.train[0]) - HORIZON - 4
    with pytest.raises(DataError, match="no test split"):
        splits.windows("test")


def test_rolling_origins_are_named_and_see_only_their_past(folder: Path) -> None:
    windows = splits_of(folder, backtest={"num_windows": 2}).windows("test")
    names = [windows[index].name for index in range(2)]
    length = len(tiny_series()[0])
    assert names == [f"s0@{length - 2 * HORIZON}", f"s0@{length - HORIZON}"]
    assert len(windows[0].input) == length - 2 * HORIZON


def test_validation_is_limited_evenly(folder: Path) -> None:
    windows = splits_of(folder, backtest={"max_validation_windows": 4}).windows("validation")
    assert windows.series_B.tolist() == [0, 3, 7, 11]


def test_short_series_are_ignored_with_a_count(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extra = [Series("short", START, np.ones(HORIZON - 1), (0,), (0.0,), np.zeros((1, HORIZON - 1), np.float32))]
    known = jsonl.read(folder / "train.jsonl", splits_of(folder)._read_options)
    jsonl.write([*known, *extra], folder / "train.jsonl")
    assert len(splits_of(folder).train) == NUM_SERIES
    assert f"1 of {NUM_SERIES + 1} series are shorter than {HORIZON} or empty: ignored" in capsys.readouterr().err


def test_too_little_data_is_refused(folder: Path) -> None:
    jsonl.write([Series("s", START, np.arange(299.0))], folder / "train.jsonl")
    with pytest.raises(DataError, match="too little training data") as error:
        _ = splits_of(folder).train
    assert "299 observed values in 1 series" in str(error.value.got)
    assert len(splits_of(folder, data={"min_observations": 299}).train) == 1


def test_no_room_for_a_window_is_refused() -> None:
    with pytest.raises(DataError, match="no training series has room"):
        window_weights(np.asarray([6, 3]), np.ones(2), 6, "positions")


def test_cardinality(folder: Path) -> None:
    assert splits_of(folder).preprocessing.cardinality == (2,)
    assert splits_of(folder, data={"cardinality": "ignore"}).preprocessing.cardinality == ()
    assert splits_of(folder, data={"cardinality": [5]}).preprocessing.cardinality == (5,)
    for wrong in ([1], [2, 2]):
        with pytest.raises(ConfigError, match="cardinality does not fit"):
            _ = splits_of(folder, data={"cardinality": wrong}).preprocessing


def test_a_category_that_never_occurs_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jsonl.write([one for one in tiny_series() if one.cat == (1,)], folder / "train.jsonl")
    assert splits_of(folder).preprocessing.cardinality == (2,)
    assert "1 of 2 values never occur in training" in capsys.readouterr().err


def test_frequency_lags_and_season_come_from_the_catalog() -> None:
    splits = SeriesSplits(config_of({"task": "forecasting", "data": {"dataset": "simbench-hourly"}}))
    assert (str(splits.frequency), splits.horizon, splits.season) == ("H", 24, 168)


def test_windows_are_drawn_where_there_is_room() -> None:
    weights = window_weights(np.asarray([20, 6, 12]), np.asarray([1.0, 9.0, 3.0]), 6, "positions")
    np.testing.assert_allclose(weights, [14 / 20, 0, 6 / 20])
    np.testing.assert_allclose(window_weights(np.asarray([20, 6, 12]), np.ones(3), 6, "series"), [0.5, 0, 0.5])
    by_scale = window_weights(np.asarray([20, 6, 12]), np.asarray([1.0, 9.0, 3.0]), 6, "scale")
    np.testing.assert_allclose(by_scale, [0.25, 0, 0.75])


def test_every_position_is_drawn_and_none_beyond(task: ForecastingTask, monkeypatch: pytest.MonkeyPatch) -> None:
    from lab.tasks.forecasting import loaders

    drawn: list[tuple[int, int]] = []
    original = loaders._tensors

    def spy(arrays: Any, series_B: np.ndarray, origin_B: np.ndarray) -> Any:
        drawn.extend(zip(series_B.tolist(), origin_B.tolist(), strict=True))
        return original(arrays, series_B, origin_B)

    monkeypatch.setattr(loaders, "_tensors", spy)
    loader = task.train_loader()
    for epoch in range(150):
        loader.set_epoch(epoch)
        list(loader)
    lengths = [len(one) for one in training_part(task.splits)]
    expected = {(n, t) for n, length in enumerate(lengths) for t in range(MIN_PAST, length - HORIZON + 1)}
    assert set(drawn) == expected


def test_ranks_draw_different_windows(task: ForecastingTask) -> None:
    first, second = (next(iter(task.train_loader(rank, 2)))["past_target"] for rank in range(2))
    assert not np.array_equal(first.numpy(), second.numpy())
    assert len(task.train_loader(0, 2)) == len(task.train_loader()) / 2


def test_the_card_says_what_was_read(task: ForecastingTask) -> None:
    card = task.dataset_card()
    assert {name: part["num_samples"] for name, part in card["splits"].items()} == dict.fromkeys(
        ("train", "validation", "test"), NUM_SERIES
    )
    assert card["digest"] == task.dataset_card()["digest"]
