"""Moments, latency thresholds, seen units and the Bayesian reading."""

from __future__ import annotations

import json
import math
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.core.seeding import stream
from lab.serve.statistics.bayesian import error_rate_reading, normal_reading
from lab.serve.statistics.latency import FrozenQuantiles, SpacedSamples
from lab.serve.statistics.moments import Moments
from lab.serve.statistics.units import NUM_BITS, SeenUnits, remix, uniform

GBSTATS = json.loads((Path(__file__).parent / "gbstats.json").read_text())["cases"]
VALUES = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=40)


@given(VALUES, st.lists(st.floats(-1e3, 1e3), max_size=10))
def test_moments_equal_numpy_after_adding_and_removing(values: list[float], taken_back: list[float]) -> None:
    moments = Moments()
    for value in values[:1] + taken_back + values[1:]:
        moments.add(value)
    for value in taken_back:
        moments.remove(value)
    assert moments.num == len(values)
    assert moments.mean == pytest.approx(np.mean(values), rel=1e-9, abs=1e-9)
    assert moments.variance == pytest.approx(np.var(values, ddof=1), rel=1e-6, abs=1e-6)


def test_moments_of_large_values_with_a_small_spread() -> None:
    moments = Moments()
    for value in (1e9 + 1, 1e9 + 2, 1e9 + 3):
        moments.add(value)
    assert (moments.mean, moments.variance) == (1e9 + 2, 1.0)
    for value in (1e9 + 1, 1e9 + 2, 1e9 + 3):
        moments.remove(value)
    assert moments == Moments()


def test_quantiles_freeze_and_stay() -> None:
    quantiles = FrozenQuantiles((0.5, 0.95), 100)
    for latency in range(100):
        assert quantiles.exceeded(1e9) == ()
        quantiles.calibrate(float(latency))
    assert quantiles.thresholds_ms == (49.0, 94.0)
    quantiles.calibrate(1e9)
    assert quantiles.thresholds_ms == (49.0, 94.0)
    assert [quantiles.exceeded(x) for x in (49.0, 50.0, 94.0, 94.5)] == [(), (0,), (0,), (0, 1)]
    assert quantiles.summary() == {"p50_ms": 49.0, "p95_ms": 94.0}


def test_calibration_continues_from_its_state() -> None:
    one, two = FrozenQuantiles((0.5,), 10), FrozenQuantiles((0.5,), 10)
    for latency in range(5):
        one.calibrate(float(latency))
    two.load_state_dict(one.state_dict())
    for latency in range(5, 10):
        one.calibrate(float(latency))
        two.calibrate(float(latency))
    assert one.thresholds_ms == two.thresholds_ms == (4.0,)
    two.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert two.thresholds_ms == (4.0,)


REQUESTS = st.lists(st.floats(0, 10), max_size=40, unique=True)


@given(REQUESTS, st.randoms(use_true_random=False))
def test_the_earliest_request_of_each_stretch_is_the_sample_whatever_comes_first(
    times_s: list[float], random: Random
) -> None:
    samples: SpacedSamples[float] = SpacedSamples(spacing_s=0.5, wait_s=1.0)
    shuffled = list(times_s)
    random.shuffle(shuffled)
    for time_s in shuffled:
        samples.offer(time_s, time_s)
    expected: dict[int, float] = {}
    for time_s in sorted(times_s):
        expected.setdefault(int(time_s // 0.5), time_s)
    assert samples.take(100.0) == list(expected.values())
    assert samples.take(200.0) == []


def test_a_stretch_is_judged_when_its_answers_have_had_time() -> None:
    samples: SpacedSamples[str] = SpacedSamples(spacing_s=1.0, wait_s=2.0)
    samples.offer(0.5, "fast")
    assert samples.take(2.9) == []
    samples.offer(0.2, "slow, but assigned before")
    assert samples.take(3.0) == ["slow, but assigned before"]
    samples.offer(0.1, "too late")
    samples.offer(1.1, "next")
    assert samples.take(10.0) == ["next"]


def test_units_are_remembered_and_come_back_from_disk() -> None:
    seen, again = SeenUnits(3), SeenUnits(3)
    assert all(seen.first(unit) for unit in (1, 2, 2**63 + 5))
    assert not any(seen.first(unit) for unit in (1, 2, 2**63 + 5))
    chunks = list(seen.changed_chunks())
    assert list(seen.changed_chunks()) == []
    for index, chunk in chunks:
        again.load_chunk(index, chunk)
    assert not again.first(2)
    assert again.first(4)


def test_few_units_share_a_bit() -> None:
    seen = SeenUnits(0)
    num_first = sum(seen.first(unit) for unit in range(50_000))
    expected = NUM_BITS * (1 - math.exp(-50_000 / NUM_BITS))
    assert abs(num_first - expected) < 4 * math.sqrt(50_000 - expected)


def test_remixed_hashes_are_uniform_and_independent_of_the_salt() -> None:
    first, second = (np.array([uniform(unit, salt) for unit in range(4000)]) for salt in (0, 1))
    counts = np.histogram(first, bins=20, range=(0, 1))[0]
    assert ((counts - 200) ** 2 / 200).sum() < 43.8  # chi-square, 19 degrees, p = 0.001
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.06
    assert remix(0, -1) == 0  # the finaliser's fixed point, so that a changed constant would show
    assert remix(0, 0) == 0xE220A8397B1DCDAF  # splitmix64's first output for seed 0


@pytest.mark.parametrize("case", GBSTATS)
def test_reading_equals_gbstats(case: dict[str, Any]) -> None:
    (n0, _, v0), (n1, _, v1) = case["control"], case["candidate"]
    reading = normal_reading(case["estimate"], math.sqrt(v0 / n0 + v1 / n1))
    assert reading.probability_better == pytest.approx(case["probability_better"], rel=1e-9)
    assert reading.expected_loss == pytest.approx(case["expected_loss"], rel=1e-5, abs=1e-12)


def test_reading_without_spread_is_certain() -> None:
    assert normal_reading(0.5, 0.0).to_dict() == {"probability_better": 1.0, "expected_loss": 0.0}
    assert normal_reading(-0.5, 0.0).to_dict() == {"probability_better": 0.0, "expected_loss": 0.5}
    assert normal_reading(0.0, 0.0).probability_better == 0.5


def test_error_rates_against_sampled_posteriors() -> None:
    rng = stream(0, "beta")
    candidate, control = rng.beta(30.5, 970.5, 200_000), rng.beta(20.5, 980.5, 200_000)
    reading = error_rate_reading((30, 1000), (20, 1000))
    assert reading.probability_better == pytest.approx((candidate < control).mean(), abs=0.01)
    assert reading.expected_loss == pytest.approx(np.maximum(candidate - control, 0).mean(), rel=0.02)
