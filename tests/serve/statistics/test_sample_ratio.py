"""The sample-ratio e-process against exact rational arithmetic, enumeration and the chi-square it replaces."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.core.errors import ConfigError
from lab.core.seeding import stream
from lab.serve.statistics.risk_ratio import log_mean_exp
from lab.serve.statistics.sample_ratio import CONCENTRATIONS, SampleRatioProcess, log_bayes_factor, log_e_path

EVEN, RAMP = {"a": 0.5, "b": 0.5}, {"a": 0.9, "b": 0.1}


def exact_bayes_factor(counts: list[int], shares: list[Fraction], concentration: int) -> Fraction:
    """One unit after another by the predictive probability, in rational numbers."""
    factor, seen = Fraction(1), [0] * len(counts)
    for index, count in enumerate(counts):
        for _ in range(count):
            predicted = (concentration * shares[index] + seen[index]) / (concentration + sum(seen))
            factor *= predicted / shares[index]
            seen[index] += 1
    return factor


@pytest.mark.parametrize("counts", [[0, 0], [3, 0], [7, 13], [60, 41]])
@pytest.mark.parametrize("share", [Fraction(1, 2), Fraction(9, 10)])
def test_closed_form_equals_rational_arithmetic(counts: list[int], share: Fraction) -> None:
    shares = [share, 1 - share]
    exact = float(exact_bayes_factor(counts, shares, 100))
    found = log_bayes_factor(counts, [float(s) for s in shares], 100.0)
    assert math.exp(found) == pytest.approx(exact, rel=1e-9)


UNITS = st.lists(st.tuples(st.sampled_from([0, 1]), st.sampled_from("ab")), min_size=1, max_size=60)


@given(UNITS)
def test_order_and_grouping_change_nothing(units: list[tuple[int, str]]) -> None:
    one_by_one, grouped = SampleRatioProcess("ab"), SampleRatioProcess("ab")
    for which, name in units:
        one_by_one.update((EVEN, RAMP)[which], name)
    for key in sorted(set(units)):
        grouped.update((EVEN, RAMP)[key[0]], key[1], units.count(key))
    assert grouped.log_e == pytest.approx(one_by_one.log_e, abs=1e-9)


@given(UNITS)
def test_weights_are_shares_in_any_scale(units: list[tuple[int, str]]) -> None:
    shares, weights = SampleRatioProcess("ab"), SampleRatioProcess("ab")
    for which, name in units:
        shares.update((EVEN, RAMP)[which], name)
        weights.update({k: 7 * v for k, v in (EVEN, RAMP)[which].items()}, name)
    assert weights.log_e == shares.log_e


def test_expectation_is_one_under_changing_weights_by_enumeration() -> None:
    """Every sequence of ten units of three variants; which weights are in force depends on the units before."""
    settings = ({"a": 0.5, "b": 0.3, "c": 0.2}, {"a": 0.8, "b": 0.1, "c": 0.1})
    total = 0.0
    for outcome in itertools.product("abc", repeat=7):
        process, probability = SampleRatioProcess("abc", concentrations=(1.0, 5.0)), 1.0
        for t, name in enumerate(outcome):
            shares = settings[outcome[:t].count("a") % 2]
            process.update(shares, name)
            probability *= shares[name]
        total += probability * math.exp(process.log_e)
    assert total == pytest.approx(1.0, abs=1e-9)


def test_a_unit_where_no_traffic_goes_is_a_contradiction() -> None:
    process = SampleRatioProcess("ab")
    process.update({"a": 1.0, "b": 0.0}, "b")
    process.look()
    assert process.log_e == math.inf
    assert process.reached(0.001)
    assert process.p_value == 0.0


def test_the_path_is_the_process_after_every_unit() -> None:
    is_b_N = stream(0, "srm-path").random(300) < 0.2
    process = SampleRatioProcess("ab")
    for is_b in is_b_N:
        process.update(RAMP, "b" if is_b else "a")
        process.look()
    log_e_N = log_mean_exp(log_e_path(0.1, is_b_N, CONCENTRATIONS))
    assert log_e_N[-1] == pytest.approx(process.log_e, abs=1e-9)
    assert log_e_N.max() == pytest.approx(process.log_e_max, abs=1e-9)


def test_false_alarms_by_simulation() -> None:
    """200 runs of 4,000 units, looked at after each, while the weights go from 90/10 to 50/50."""
    rng, alarms = stream(0, "srm-null"), 0
    for _ in range(200):
        first_NC, second_NC = (log_e_path(w, rng.random(2000) < w, CONCENTRATIONS) for w in (0.1, 0.5))
        log_e_N = log_mean_exp(np.concatenate([first_NC, first_NC[-1] + second_NC]))
        alarms += log_e_N.max() >= math.log(1 / 0.05)
    assert alarms <= 18  # at most 200 x 0.05 = 10 in expectation; P(more than 18) < 0.006


@pytest.mark.parametrize(("true_share", "num"), [(0.6, 1000), (0.55, 4000), (0.52, 25000)])
def test_finds_what_a_chi_square_finds(true_share: float, num: int) -> None:
    """At these sizes the chi-square of the expected counts is beyond p = 1e-9 (6.1 standard deviations)."""
    assert (true_share - 0.5) / math.sqrt(0.25 / num) > 6.1
    process = SampleRatioProcess("ab")
    process.update(EVEN, "a", round(true_share * num))
    process.update(EVEN, "b", round((1 - true_share) * num))
    process.look()
    assert process.reached(0.001)
    sound = SampleRatioProcess("ab")
    for name in "ab":
        sound.update(EVEN, name, num // 2)
    assert sound.log_e < 0.0


def test_the_small_concentration_finds_gross_bugs_earlier() -> None:
    counts = [600, 400]
    low, high = (log_bayes_factor(counts, [0.5, 0.5], c) for c in CONCENTRATIONS)
    assert low > math.log(1000) > high


def test_summary_and_state() -> None:
    one = SampleRatioProcess("ab")
    one.update(RAMP, "a", 85)
    one.update(RAMP, "b", 15)
    one.update(EVEN, "b", 10)
    two = SampleRatioProcess("ab")
    two.load_state_dict(one.state_dict())
    for process in (one, two):
        process.update(EVEN, "a", 12)
        process.look()
    assert two.summary() == one.summary()
    assert one.summary()["num_units"] == {"a": 97, "b": 25}
    assert one.summary()["num_expected"] == {"a": pytest.approx(101.0), "b": pytest.approx(21.0)}


def test_unknown_variants_and_useless_shares_are_refused() -> None:
    process = SampleRatioProcess("ab")
    with pytest.raises(ConfigError, match="unknown variant"):
        process.update(EVEN, "c")
    with pytest.raises(ConfigError, match="shares"):
        process.update({"a": 0.0, "b": 0.0}, "a")
