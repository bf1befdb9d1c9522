"""Confidence sequences against GrowthBook's own numbers, the mixture they come from, and simulated coverage."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab.core.seeding import stream
from lab.serve.statistics.confidence_sequence import (
    difference_interval,
    difference_p_value,
    half_width,
    mean_interval,
    tuned_rho,
)
from lab.serve.statistics.moments import Moments

GBSTATS = json.loads((Path(__file__).parent / "gbstats.json").read_text())["cases"]


def arm(num: int, mean: float, variance: float) -> Moments:
    return Moments(num, mean, variance * (num - 1))


@pytest.mark.parametrize("case", GBSTATS)
def test_equals_gbstats(case: dict[str, Any]) -> None:
    candidate, control = arm(*case["candidate"]), arm(*case["control"])
    interval = difference_interval(candidate, control, case["alpha"], case["planned"])
    assert (interval.estimate, interval.low, interval.high) == pytest.approx(
        (case["estimate"], case["low"], case["high"]), rel=1e-9
    )
    p_value = difference_p_value(candidate, control, case["alpha"], case["planned"])
    assert p_value == pytest.approx(case["p_value"], rel=1e-9)


@pytest.mark.parametrize("case", GBSTATS)
def test_p_value_and_interval_agree(case: dict[str, Any]) -> None:
    """At the alpha the p-value is tuned for."""
    candidate, control = arm(*case["candidate"]), arm(*case["control"])
    interval = difference_interval(candidate, control, case["alpha"], case["planned"])
    excludes_zero = interval.low > 0 or interval.high < 0
    assert excludes_zero == (difference_p_value(candidate, control, case["alpha"], case["planned"]) < case["alpha"])


@pytest.mark.parametrize(("factor", "times"), [(1.0, 1.55), (0.1, 1.97), (10.0, 1.65)])
def test_width_over_that_of_a_fixed_sample(factor: float, times: float) -> None:
    num = 5000 * factor
    fixed = 1.959964 / math.sqrt(num)
    assert half_width(num, 1.0, 0.05, 5000) / fixed == pytest.approx(times, abs=0.005)


@pytest.mark.parametrize("num", [10, 300, 5000, 100_000])
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_bounds_lie_where_robbins_mixture_reaches_the_level(num: int, alpha: float) -> None:
    """Two-sided: exactly. One-sided: just beyond the point where the half-normal mixture does, so never too tight."""
    rho = tuned_rho(5000, alpha)
    x = half_width(num, 1.0, alpha, 5000) * num * rho / math.sqrt(num * rho**2 + 1)
    assert math.exp(x * x / 2) / math.sqrt(num * rho**2 + 1) == pytest.approx(1 / alpha, rel=1e-9)
    rho = tuned_rho(5000, 2 * alpha)
    x = half_width(num, 1.0, alpha, 5000, sides=1) * num * rho / math.sqrt(num * rho**2 + 1)
    normal_cdf = 0.5 * math.erfc(-x / math.sqrt(2))
    evidence = 2 * normal_cdf * math.exp(x * x / 2) / math.sqrt(num * rho**2 + 1)
    assert 1 / alpha <= evidence < 1.35 / alpha


def test_one_sided_is_tighter() -> None:
    assert half_width(5000, 1.0, 0.05, sides=1) < half_width(5000, 1.0, 0.05, sides=2)


@pytest.mark.parametrize("sides", [1, 2])
def test_coverage_at_all_times_by_simulation(sides: int) -> None:
    """200 runs of skewed outcomes (exponential and Bernoulli 0.3), looked at after every pair from the 50th on."""
    rng, misses = stream(0, "cs-coverage", sides), 0
    num_N = np.arange(1, 3001)
    for run in range(200):
        draw = rng.standard_exponential if run % 2 else lambda size: (rng.random(size) < 0.3).astype(float)
        x_2N = np.asarray(draw((2, 3000)))
        mean_2N = np.cumsum(x_2N, axis=1) / num_N
        variance_2N = (np.cumsum(x_2N**2, axis=1) - num_N * mean_2N**2) / np.maximum(num_N - 1, 1)
        std_N = np.sqrt(2 * variance_2N.sum(axis=0))
        half_N = np.array([half_width(2 * n, 1.0, 0.05, sides=sides) for n in num_N[::10]])
        gap_N = (mean_2N[0] - mean_2N[1])[::10]
        gap_N = np.abs(gap_N) if sides == 2 else gap_N
        misses += bool((gap_N > half_N * std_N[::10])[5:].any())
    assert misses <= 18  # at most 200 x 0.05 = 10 in expectation; P(more than 18) < 0.006


def test_too_few_units_know_nothing() -> None:
    assert mean_interval(arm(1, 2.0, 0.0), 0.05).high == math.inf
    interval = difference_interval(arm(1, 2.0, 0.0), arm(50, 1.0, 1.0), 0.05)
    assert (interval.low, interval.high) == (-math.inf, math.inf)
    assert interval.to_dict() == {"estimate": 1.0, "low": None, "high": None, "num_units": 51}
    assert difference_p_value(arm(1, 2.0, 0.0), arm(50, 1.0, 1.0), 0.05) == 1.0


def test_mean_interval_is_symmetric_about_the_mean() -> None:
    interval = mean_interval(arm(400, 3.0, 4.0), 0.05, 1000)
    assert interval.high - 3.0 == pytest.approx(2.0 * half_width(400, 1.0, 0.05, 1000))
    assert 3.0 - interval.low == pytest.approx(interval.high - 3.0)
