"""The deployed half: windows, the sampling loop, what it promises of forecasts, and what it says of bad input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.core.errors import ArtifactError, DataError
from lab.data.preprocess import to_manifest
from lab.data.series import jsonl, parquet
from lab.data.series.series import Series
from lab.tasks.forecasting import deploy
from lab.tasks.forecasting.learn import ForecastingTask
from lab.tasks.forecasting.windows import NUM_PARAMETERS, Preprocessing, SeriesArrays, scale_of
from tests.tasks.forecasting.tiny import tiny_series

START = np.datetime64("2020-01-01T00:00:00", "s")
PLAIN = Preprocessing(
    frequency="M", context_length=6, prediction_length=4, lags=(1, 2, 5), likelihood="gaussian", default_scale=3.0,
    num_samples=40, season_length=12,
)  # fmt: skip
Call = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


def functions_of(options: Preprocessing, seed: int = 0) -> dict[str, Call]:
    """A network in numpy, small and random, whose parameters depend on everything it is given."""
    rng = np.random.default_rng(seed)
    width, num_parameters = len(options.lags) + options.num_features, NUM_PARAMETERS[options.likelihood]
    into, out = rng.normal(0, 0.5, (width, 5)), rng.normal(0, 0.5, (5, num_parameters))

    def advance(inputs: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        return np.tanh(inputs @ into + 0.5 * hidden[:, 0]).astype(np.float32)[:, None]

    def parameters(hidden: np.ndarray) -> np.ndarray:
        raw = hidden[:, 0] @ out
        positive = {"gaussian": [1], "student-T": [2], "negative-binomial": [0, 1], "beta": [0, 1]}
        for column in positive.get(options.likelihood, []):
            raw[:, column] = np.exp(raw[:, column])
        if options.likelihood == "student-T":
            raw[:, 0] = 2 + np.exp(raw[:, 0])
        return raw.astype(np.float32)

    def encode(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        hidden = np.zeros((len(feed["inputs"]), 1, 5), np.float32)
        for step in range(feed["inputs"].shape[1]):
            hidden = advance(feed["inputs"][:, step], hidden)
        return {"parameters": parameters(hidden), "hidden": hidden, "cell": hidden}

    def step(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        hidden = advance(feed["inputs"], feed["hidden"])
        return {"parameters": parameters(hidden), "next_hidden": hidden, "next_cell": feed["cell"]}

    return {"encode": encode, "step": step}


def series_of(values: Any, name: str = "s") -> Series:
    return Series(name, START, np.asarray(values, np.float64))


def forecast(series: list[Series], options: Preprocessing = PLAIN, **loop: Any) -> np.ndarray:
    data = to_manifest(options)
    samples: np.ndarray = deploy.generate(functions_of(options), deploy.preprocess(series, data), data, **loop)[
        "samples"
    ]
    return samples


def wave(length: int = 40, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.asarray(10 + 4 * np.sin(np.arange(length) / 2) + rng.random(length))


# ---- windows ---------------------------------------------------------------------------------------------------------


def test_a_window_holds_the_past_and_the_features_of_what_is_predicted() -> None:
    values = np.arange(1.0, 21.0)
    values[17] = np.nan
    feed = deploy.preprocess([series_of(values)], to_manifest(PLAIN))
    assert PLAIN.past_length == 10
    np.testing.assert_array_equal(feed["past_target"][0], [11, 12, 13, 14, 15, 16, 17, 0, 19, 20])
    np.testing.assert_array_equal(feed["past_observed"][0], [1, 1, 1, 1, 1, 1, 1, 0, 1, 1])
    # The first predicted step of the context is its second: month 16 of the series, an April.
    months = (np.arange(15, 24) % 12) / 11 - 0.5
    np.testing.assert_allclose(feed["features"][0, :, 0], months, atol=1e-6)
    np.testing.assert_allclose(feed["features"][0, :, 1], np.log10(2 + np.arange(15, 24)), atol=1e-6)


def test_lags_count_back_from_the_predicted_step() -> None:
    positions = PLAIN.lag_positions(np.arange(9))
    whole = np.arange(PLAIN.past_length + PLAIN.prediction_length)
    predicted = PLAIN.past_length - PLAIN.context_length + 1 + np.arange(9)
    np.testing.assert_array_equal(whole[positions], predicted[:, None] - np.asarray(PLAIN.lags))
    assert positions.min() == 0


def test_a_short_series_is_padded_as_unobserved() -> None:
    feed = deploy.preprocess([series_of([4.0, 8.0])], to_manifest(PLAIN))
    np.testing.assert_array_equal(feed["past_observed"][0], [0] * 8 + [1, 1])
    assert scale_of(feed["past_target"], feed["past_observed"], PLAIN)[0, 0] == pytest.approx(6.0)
    assert np.isfinite(forecast([series_of([4.0, 8.0])])).all()


def test_the_scale_falls_back_in_order() -> None:
    target = np.zeros((3, 10), np.float32)
    observed = np.ones((3, 10), np.float32)
    target[0, -6:], target[1, 0] = -2.0, 50.0
    found = scale_of(target, observed, PLAIN)
    np.testing.assert_allclose(found[:, 0], [2.0, 5.0, 3.0])  # context, whole past, the training data's
    assert (scale_of(target, observed, replace(PLAIN, scaling=False)) == 1).all()


def test_many_series_at_once_are_what_they_are_alone() -> None:
    options, series = replace(PLAIN, cardinality=(2,), num_static_real=1, num_dynamic=1), tiny_series(4)
    cut = [one.before(len(one) - 4, 4) for one in series]
    together = deploy.preprocess(cut, to_manifest(options))
    for row, one in enumerate(cut):
        alone = deploy.preprocess([one], to_manifest(options))
        for name, array in alone.items():
            np.testing.assert_array_equal(together[name][row], array[0], err_msg=name)
    arrays = SeriesArrays.of(series, options)
    whole = arrays.inputs(np.arange(4), np.asarray([len(one) for one in cut]))
    for name, array in together.items():
        np.testing.assert_array_equal(whole[name], array, err_msg=name)


# ---- the loop --------------------------------------------------------------------------------------------------------


def test_the_loop_is_the_model_s_recursion() -> None:
    """Every step of a path, computed alone from the values before it, gives that step's draw again."""
    from lab.tasks.forecasting.sampling import draw_of, noise_tables, table_of

    data, values = to_manifest(PLAIN), wave()
    feed = deploy.preprocess([series_of(values)], data)
    samples = deploy.generate(functions_of(PLAIN), feed, data, num_samples=3, seed=2)["samples"]
    scale = scale_of(feed["past_target"], feed["past_observed"], PLAIN)
    tables = noise_tables("gaussian", 2, 3, 4)
    table = tables[table_of(feed["past_target"][:, -6:] / scale, len(tables))[0]]
    encode = functions_of(PLAIN)["encode"]
    for path in range(3):
        known = np.concatenate([feed["past_target"][0], samples[0, path]]) / scale[0]
        for step in range(4):
            lagged = known[PLAIN.lag_positions(np.arange(6 + step))]
            inputs = np.concatenate([lagged, feed["features"][0, : 6 + step]], axis=-1)[None].astype(np.float32)
            parameters = encode({"inputs": inputs})["parameters"]
            drawn = draw_of("gaussian")(parameters[:, None], table[step][None], scale)[0, path] * scale[0, 0]
            assert drawn == pytest.approx(samples[0, path, step], rel=1e-4)


def test_a_series_gets_the_same_forecast_alone_and_among_others() -> None:
    series = [series_of(wave(40, seed), f"s{seed}") for seed in range(7)]
    together = forecast(series)
    for row, one in enumerate(series):
        np.testing.assert_allclose(forecast([one])[0], together[row], rtol=1e-5)


def test_the_seed_and_the_number_of_samples_are_the_caller_s() -> None:
    one = [series_of(wave())]
    np.testing.assert_array_equal(forecast(one, seed=4), forecast(one, seed=4))
    assert not np.array_equal(forecast(one, seed=4), forecast(one, seed=5))
    assert forecast(one, num_samples=7).shape == (1, 7, 4)
    assert forecast([], num_samples=7).shape == (0, 7, 4)


@pytest.mark.parametrize("likelihood", ["student-T", "gaussian", "deterministic-L1"])
@given(factor=st.floats(1e-3, 1e6), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_scaling_a_series_scales_its_forecast(likelihood: Any, factor: float, seed: int) -> None:
    options, values = replace(PLAIN, likelihood=likelihood), wave(40, seed)
    plain, scaled = forecast([series_of(values)], options), forecast([series_of(factor * values)], options)
    np.testing.assert_allclose(scaled, factor * plain, rtol=2e-3, atol=1e-3 * factor * np.abs(plain).max())


@given(missing=st.sets(st.integers(0, 29), max_size=20), shift=st.floats(-1e4, 1e4))
@settings(max_examples=25, deadline=None)
def test_what_lies_before_context_and_lags_changes_nothing(missing: set[int], shift: float) -> None:
    """Values there may be missing or others; the network sees the last 10 of 40."""
    values = wave()
    other = values.copy()
    other[list(missing)] = np.nan
    other[:5] += shift
    np.testing.assert_array_equal(forecast([series_of(values)]), forecast([series_of(other)]))


@given(seed=st.integers(0, 10_000), likelihood=st.sampled_from(sorted(NUM_PARAMETERS)))
@settings(max_examples=25, deadline=None)
def test_quantiles_of_forecasts_are_monotone(seed: int, likelihood: Any) -> None:
    options = replace(PLAIN, likelihood=likelihood, scaling=likelihood != "beta")
    values = np.abs(wave(40, seed)) / (20 if likelihood == "beta" else 1)
    samples = forecast([series_of(values)], options, seed=seed)
    levels = [f"{level:.2f}" for level in np.linspace(0.05, 0.95, 19)]
    (answer,) = deploy.postprocess(
        {"samples": samples}, (), [series_of(values)], to_manifest(options), quantiles=levels
    )
    curves = np.asarray(list(deploy.to_record(answer, ())["quantiles"].values()))
    assert (np.diff(curves, axis=0) >= 0).all()


def test_counts_are_whole_numbers_in_the_series_own_units() -> None:
    options = replace(PLAIN, likelihood="negative-binomial")
    samples = forecast([series_of(np.random.default_rng(0).poisson(4, 40))], options)
    np.testing.assert_array_equal(samples, np.rint(samples))
    assert samples.min() >= 0
    assert samples.std() > 0


# ---- bad input -------------------------------------------------------------------------------------------------------

FULL = replace(PLAIN, cardinality=(2,), num_static_real=1, num_dynamic=1)
GOOD = Series("g", START, np.arange(1.0, 9.0), (1,), (0.5,), np.zeros((1, 12), np.float32))
BAD = {
    "all missing": (replace(GOOD, target_T=np.full(8, np.nan)), "nothing was observed"),
    "empty": (replace(GOOD, target_T=np.zeros(0)), "nothing was observed"),
    "category unseen": (replace(GOOD, cat=(2,)), "was not seen in training"),
    "category missing": (replace(GOOD, cat=()), "lacks categories"),
    "dynamic too short": (replace(GOOD, dynamic_DT=np.zeros((1, 11), np.float32)), "dynamic_feat is too short"),
    "dynamic missing": (replace(GOOD, dynamic_DT=None), "lacks dynamic features"),
    "static missing": (replace(GOOD, static_real=()), "another number of static features"),
}


@pytest.mark.parametrize("what", sorted(BAD))
def test_bad_series_are_answered_clearly(what: str) -> None:
    series, message = BAD[what]
    deploy.preprocess([GOOD], to_manifest(FULL))
    with pytest.raises(DataError, match=message) as error:
        deploy.preprocess([GOOD, series], to_manifest(FULL))
    assert error.value.expected
    assert "g" in error.value.what


def test_an_unknown_item_is_named() -> None:
    options = replace(PLAIN, items=("a", "b"))
    assert deploy.preprocess([series_of(wave(), "b")], to_manifest(options))["static_cat"].tolist() == [[1]]
    with pytest.raises(DataError, match="'c' was not seen in training"):
        deploy.preprocess([series_of(wave(), "c")], to_manifest(options))


def test_a_manifest_of_another_kind_is_refused() -> None:
    with pytest.raises(ArtifactError, match="not understood"):
        deploy.preprocess([GOOD], {"shape": [3, 4, 4]})


def test_files_give_series_and_errors_in_their_places(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    jsonl.write([GOOD], path)
    path.write_text(path.read_text() + "nonsense\n" + path.read_text())
    first, second, third = deploy.load_inputs(path)
    assert isinstance(second, DataError)
    assert f"{path}:2" in second.what
    assert isinstance(first, Series)
    assert isinstance(third, Series)
    np.testing.assert_array_equal(first.dynamic_DT, GOOD.dynamic_DT)
    parquet.write([GOOD], tmp_path / "in.parquet")
    (again,) = deploy.load_inputs(tmp_path / "in.parquet")
    np.testing.assert_array_equal(again.target_T, GOOD.target_T)
    path.write_text("\n")
    with pytest.raises(DataError, match="has no series"):
        deploy.load_inputs(path)


# ---- answers ---------------------------------------------------------------------------------------------------------


def test_a_forecast_begins_after_the_series() -> None:
    data = to_manifest(PLAIN)
    short = series_of([1.0, np.nan, 3.0], "short")
    (answer,) = deploy.postprocess({"samples": forecast([short])}, (), [short], data)
    record = deploy.to_record(answer, ())
    assert record["start"] == "2020-04-01 00:00:00"
    assert (record["item_id"], record["freq"]) == ("short", "M")
    assert record["context"] == {"observed": 2, "length": 6}
    assert list(record["quantiles"]) == ["0.1", "0.5", "0.9"]
    np.testing.assert_allclose(record["mean"], answer.samples_SP.mean(axis=0))
    with pytest.raises(DataError, match="quantiles cannot be used"):
        deploy.postprocess({"samples": forecast([short])}, (), [short], data, quantiles=["1.5"])
    with pytest.raises(DataError, match="differ in number"):
        deploy.postprocess({"samples": forecast([short])}, (), [], data)


def test_agreement_counts_equal_samples() -> None:
    samples = forecast([series_of(wave(40, seed)) for seed in range(4)])
    assert deploy.agreement({"samples": samples}, {"samples": samples}) == 1
    other = samples.copy()
    other[0] += 10
    assert deploy.agreement({"samples": samples}, {"samples": other}) == pytest.approx(0.75)
    assert deploy.agreement({"samples": samples}, {"samples": samples * (1 + 1e-7)}) > 0.99
    assert deploy.aligned({"samples": samples}, {"samples": other})[1]["samples"] is other


def test_the_picture_shows_band_median_and_history(task: ForecastingTask) -> None:
    series = series_of(np.r_[wave(20), np.nan, 12.0])
    (answer,) = deploy.postprocess({"samples": forecast([series])}, (), [series], to_manifest(PLAIN))
    picture = deploy.draw(series, answer, ())
    assert picture.shape == (320, 720, 3)
    assert picture.dtype == np.uint8
    colours = {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}
    assert {(205, 222, 240), (145, 182, 219), (40, 40, 40), (20, 80, 150)} <= colours


def test_signatures_fit_each_other(task: ForecastingTask) -> None:
    encode, step = task.functions["encode"], task.functions["step"]
    assert [spec.name for spec in encode.inputs] == ["inputs", "static_cat", "static_real"]
    assert step.inputs[0].shape[1] == encode.inputs[0].shape[2] + encode.outputs[-1].shape[1]
    assert [spec.shape for spec in step.inputs[1:]] == [spec.shape for spec in encode.outputs[1:3]]
    assert deploy.rows_per_input(task.preprocessing) == {"encode": 1, "step": 20}
    assert deploy.signature(task.preprocessing) == task.signature
