"""Figures against their definitions, and against what GluonTS 0.17's Evaluator gives on the same samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lab.data.series.series import Series
from lab.tasks.forecasting.baselines import ets, filled, naive, seasonal_error, seasonal_naive
from lab.tasks.forecasting.responses import quantiles_of
from lab.tasks.forecasting.scoring import COVERAGES, ForecastSample, Scorer, Truth, figures, num_sums, window_sums

LEVELS = (0.1, 0.5, 0.9)
START = np.datetime64("2020-01-01T00:00:00", "s")
OPTIONS: dict[str, Any] = {
    "frequency": "M", "context_length": 4, "prediction_length": 3, "lags": [1], "likelihood": "gaussian",
    "default_scale": 1.0, "quantiles": list(LEVELS), "season_length": 4, "num_samples": 50,
}  # fmt: skip


def made(seed: int = 0, windows: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    samples = rng.gamma(2.0, 10.0, (windows, 40, 3))
    return samples, rng.gamma(2.0, 10.0, (windows, 3)), rng.uniform(1, 3, windows)


def test_figures_are_their_definitions() -> None:
    samples, target, error = made()
    found = figures(window_sums(samples, target, error, LEVELS), LEVELS)
    ordered = np.sort(samples, axis=1)
    median = ordered[:, round(39 * 0.5)]
    total = np.abs(target).sum()
    assert found["nd"] == pytest.approx(np.abs(target - median).sum() / total)
    assert found["rmse"] == pytest.approx(np.sqrt(((samples.mean(axis=1) - target) ** 2).mean()))
    assert found["mase"] == pytest.approx((np.abs(target - median).mean(axis=1) / error).mean())
    for level in LEVELS:
        quantile = ordered[:, round(39 * level)]
        pinball = np.where(target > quantile, level * (target - quantile), (1 - level) * (quantile - target))
        assert found[f"wql_{level:g}"] == pytest.approx(2 * pinball.sum() / total)
    assert found["mean_wql"] == pytest.approx(np.mean([found[f"wql_{level:g}"] for level in LEVELS]))
    pairs = np.abs(samples[:, :, None] - samples[:, None]).mean(axis=(1, 2))
    crps = np.abs(samples - target[:, None]).mean(axis=1) - pairs / 2
    assert found["crps"] == pytest.approx(crps.sum() / total)
    inside = (ordered[:, round(39 * 0.1)] <= target) & (target <= ordered[:, round(39 * 0.9)])
    assert found["coverage_80"] == pytest.approx(inside.mean())


def test_figures_are_those_of_gluonts() -> None:
    """`Evaluator(quantiles=(0.1, 0.5, 0.9), seasonality=4)` of GluonTS 0.17.0 on these very samples and histories."""
    rng = np.random.default_rng(11)
    histories = [rng.gamma(2.0, 10.0, 20) for _ in range(5)]
    samples, target, _ = made(seed=7)
    error = np.asarray([seasonal_error(one, 4) for one in histories])
    found = figures(window_sums(samples, target, error, LEVELS), LEVELS)
    for name, value in GLUONTS.items():
        assert found[name] == pytest.approx(value, rel=1e-6), name


GLUONTS = {
    "mase": 0.7619181501648418,
    "nd": 0.572200019402856,
    "rmse": 15.142336179200274,
    "wql_0.1": 0.1810710896395399,
    "wql_0.5": 0.572200019402856,
    "wql_0.9": 0.2960418226767983,
    "mean_wql": 0.34977097723973144,
}


def test_missing_truth_does_not_count() -> None:
    samples, target, error = made()
    holed = target.copy()
    holed[2], holed[0, 1] = np.nan, np.nan
    kept = ~np.isnan(holed)
    found = figures(window_sums(samples, holed, error, LEVELS), LEVELS)
    median = quantiles_of(samples, (0.5,))[:, 0]
    assert found["nd"] == pytest.approx(np.abs(target - median)[kept].sum() / target[kept].sum())
    assert np.isfinite(list(found.values())).all()


def test_perfect_samples_lose_nothing_and_cover_everything() -> None:
    _, target, error = made()
    found = figures(window_sums(np.repeat(target[:, None], 9, axis=1), target, error, LEVELS), LEVELS)
    assert {name for name, value in found.items() if value == pytest.approx(0, abs=1e-12)} == {
        "mean_wql", "crps", "mase", "nd", "rmse", "wql_0.1", "wql_0.5", "wql_0.9"
    }  # fmt: skip
    assert all(found[name] == 1 for name in COVERAGES)


def test_sums_add_up_over_batches() -> None:
    samples, target, error = made(windows=8)
    parts = [window_sums(samples[s], target[s], error[s], LEVELS) for s in (slice(0, 3), slice(3, 8))]
    np.testing.assert_allclose(sum(parts), window_sums(samples, target, error, LEVELS))
    assert len(parts[0]) == num_sums(LEVELS)


@given(hnp.arrays(np.float64, (2, 7, 3), elements=st.floats(-1e6, 1e6)))
def test_quantiles_are_monotone(samples: np.ndarray) -> None:
    levels = np.linspace(0.01, 0.99, 25)
    assert (np.diff(quantiles_of(samples, levels), axis=1) >= 0).all()


def test_baselines() -> None:
    target = np.asarray([np.nan, 1.0, 2.0, np.nan, 4.0, 5.0, np.nan, 7.0])
    np.testing.assert_array_equal(filled(target), [1, 1, 2, 2, 4, 5, 5, 7])
    np.testing.assert_array_equal(naive(target, 2), [7, 7])
    np.testing.assert_array_equal(seasonal_naive(target, 6, 4), [4, 5, 5, 7, 4, 5])
    np.testing.assert_array_equal(seasonal_naive(target[:3], 2, 4), [2, 2])
    assert seasonal_error(target, 4) == pytest.approx(4)  # of 5 - 1 alone: the other changes have a gap
    assert np.isnan(seasonal_error(target[:4], 4))


def test_exponential_smoothing_continues_a_season() -> None:
    steps = np.arange(72)
    wave = 100 + 20 * np.sin(2 * np.pi * steps / 12)
    rng = np.random.default_rng(0)
    noisy = wave[:60] + rng.normal(0, 1, 60)
    paths = ets(noisy, 12, 12, num_samples=200, seed=1)
    assert paths.shape == (200, 12)
    assert np.abs(np.median(paths, axis=0) - wave[60:]).max() < 5
    assert 0.3 < paths.std(axis=0)[0] < 3
    np.testing.assert_array_equal(paths, ets(noisy, 12, 12, num_samples=200, seed=1))
    assert (ets(np.full(30, 5.0), 3, 12, num_samples=4, seed=0) == 5).all()


def test_the_scorer_puts_baselines_beside_the_model() -> None:
    samples, target, error = made()
    rng = np.random.default_rng(2)
    rows = [
        ForecastSample(Series(f"s{n}", START, rng.gamma(2.0, 10.0, 24)), Truth(target[n], error[n]), f"s{n}")
        for n in range(5)
    ]
    scorer = Scorer(OPTIONS, ets_windows=2)
    for part in (slice(0, 2), slice(2, 5)):
        scorer.update({"samples": samples[part]}, rows[part])
    found = scorer.compute()
    plain = figures(window_sums(samples, target, error, LEVELS), LEVELS)
    assert all(found[name] == pytest.approx(value) for name, value in plain.items())
    last = np.stack([seasonal_naive(row.input.target_T, 3, 4) for row in rows])
    assert found["seasonal_naive_nd"] == pytest.approx(np.abs(last - target).sum() / target.sum())
    assert found["ets_windows"] == 2
    first = figures(window_sums(samples[:2], target[:2], error[:2], LEVELS), LEVELS)
    assert found["ets_windows_mase"] == pytest.approx(first["mase"])
    assert {"naive_mase", "seasonal_naive_mase", "ets_mase", "ets_mean_wql"} <= set(found)
