"""The e-process of events: its value against the formula written out, its expectation and error rate exactly."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.core.errors import ConfigError
from lab.core.seeding import stream
from lab.serve.statistics.risk_ratio import RATIOS, RiskRatioProcess, log_e_path

SHARES = st.sampled_from([0.01, 0.05, 0.1, 0.25, 0.5, 0.9])
EVENTS = st.lists(st.tuples(SHARES, st.booleans()), min_size=1, max_size=30)


def written_out(events: list[tuple[float, bool]], tolerated: float = 1.0) -> float:
    """The formula of the module's docstring, as plain products."""

    def theta(w: float, r: float) -> float:
        return w * r / (w * r + 1 - w)

    products = []
    for ratio in RATIOS:
        product = 1.0
        for w, x in events:
            high, null = theta(w, tolerated * ratio), theta(w, tolerated)
            product *= high / null if x else (1 - high) / (1 - null)
        products.append(product)
    return sum(products) / len(products)


def fed(events: list[tuple[float, bool]], tolerated: float = 1.0) -> RiskRatioProcess:
    process = RiskRatioProcess(tolerated)
    for share, is_candidate in events:
        process.update(share, int(is_candidate), int(not is_candidate))
        process.look()
    return process


@given(EVENTS, st.sampled_from([1.0, 1.25, 2.0]))
def test_equals_the_formula(events: list[tuple[float, bool]], tolerated: float) -> None:
    assert math.exp(fed(events, tolerated).log_e) == pytest.approx(written_out(events, tolerated), rel=1e-9)


@given(EVENTS, st.randoms(use_true_random=False))
def test_grouping_and_order_change_nothing(events: list[tuple[float, bool]], random: object) -> None:
    grouped = RiskRatioProcess()
    for share in {share for share, _ in events}:
        kinds = [x for w, x in events if w == share]
        grouped.update(share, sum(kinds), len(kinds) - sum(kinds))
    one_by_one = fed(events)
    assert grouped.log_e == pytest.approx(one_by_one.log_e, abs=1e-9)
    assert grouped.num_expected == pytest.approx(one_by_one.num_expected)


@given(EVENTS, st.integers(0, 29))
def test_an_event_of_the_candidate_is_more_evidence_than_one_of_the_control(
    events: list[tuple[float, bool]], at: int
) -> None:
    at %= len(events)
    share = events[at][0]
    worse, better = ([*events[:at], (share, x), *events[at + 1 :]] for x in (True, False))
    assert fed(worse).log_e > fed(better).log_e


@given(EVENTS)
def test_the_path_is_the_process_after_every_event(events: list[tuple[float, bool]]) -> None:
    shares, kinds = np.array([w for w, _ in events]), np.array([x for _, x in events])
    path = log_e_path(shares, kinds)
    process = fed(events)
    assert path[-1] == pytest.approx(process.log_e, abs=1e-9)
    assert max(0.0, path.max()) == pytest.approx(process.log_e_max, abs=1e-9)


def adaptive_share(past: tuple[bool, ...]) -> float:
    """Weights that depend on what was seen, as a controller's do."""
    return (0.01, 0.1, 0.5, 0.25, 0.9)[(sum(past) + 2 * len(past)) % 5]


@pytest.mark.parametrize(("true_ratio", "tolerated", "expected"), [(1.0, 1.0, 1.0), (1.25, 1.25, 1.0)])
def test_expectation_is_one_under_the_null_by_enumeration(true_ratio: float, tolerated: float, expected: float) -> None:
    """Every sequence of ten events with its exact probability, the weights depending on the past."""
    assert enumerated_expectation(true_ratio, tolerated, 10) == pytest.approx(expected, abs=1e-10)


def test_expectation_is_below_one_for_a_better_candidate_and_above_for_a_worse() -> None:
    assert enumerated_expectation(0.8, 1.0, 8) < 0.9
    assert enumerated_expectation(1.2, 1.25, 8) < 1.0
    assert enumerated_expectation(1.3, 1.0, 8) > 1.1


def enumerated_expectation(true_ratio: float, tolerated: float, num: int) -> float:
    total = 0.0
    for outcome in itertools.product((False, True), repeat=num):
        events = [(adaptive_share(outcome[:t]), x) for t, x in enumerate(outcome)]
        probability = 1.0
        for w, x in events:
            theta = w * true_ratio / (w * true_ratio + 1 - w)
            probability *= theta if x else 1 - theta
        total += probability * written_out(events, tolerated)
    return total


def crossing_probability(share: float, alpha: float, num: int, true_ratio: float = 1.0) -> float:
    """The exact probability that equal variants ever cross 1/alpha within `num` events, looking after each.

    At a constant share the evidence depends on the number of the candidate's events alone, so one pass over the
    distribution of that number, emptied of what has crossed, gives the probability without simulation.
    """
    theta = share * true_ratio / (share * true_ratio + 1 - share)
    ratios = np.asarray(RATIOS)
    high = share * ratios / (share * ratios + 1 - share)
    gain, loss = np.log(high / share), np.log((1 - high) / (1 - share))
    alive, crossed = np.array([1.0]), 0.0
    for n in range(1, num + 1):
        alive = np.append(alive, 0.0) * (1 - theta) + np.insert(alive, 0, 0.0) * theta
        k = np.arange(n + 1)[:, None]
        over = np.exp(np.minimum(k * gain + (n - k) * loss, 500.0)).mean(axis=1) >= 1 / alpha
        crossed += float(alive[over].sum())
        alive[over] = 0.0
    return crossed


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_false_alarms_stay_below_alpha_exactly(share: float, alpha: float) -> None:
    probability = crossing_probability(share, alpha, 600)
    assert 0.0 < probability <= alpha


def test_a_tenfold_error_rate_is_found_almost_surely() -> None:
    assert crossing_probability(0.1, 0.001, 100, true_ratio=10.0) > 0.999


def test_false_alarms_under_a_ramp_by_simulation() -> None:
    """200 runs of 800 events while the share climbs from 1 % to 50 %: the subset of benchmarks/guardrail_simulation."""
    ramp_N = np.repeat([0.01, 0.05, 0.1, 0.25, 0.5], 160)
    rng = stream(0, "risk-ratio-null")
    alarms = sum(log_e_path(ramp_N, rng.random(ramp_N.size) < ramp_N).max() >= math.log(20) for _ in range(200))
    assert 1 <= alarms <= 18  # 200 x 0.05 = 10 is the bound in expectation; P(more than 18) < 0.006


@pytest.mark.parametrize(
    ("share", "ratio", "alpha", "num_errors"),
    [(0.1, 10, 0.05, 11), (0.1, 10, 0.001, 20), (0.1, 3, 0.001, 100), (0.1, 2, 0.05, 163), (0.5, 3, 0.001, 70)],
)
def test_needs_no_more_errors_than_a_beta_mixture(share: float, ratio: float, alpha: float, num_errors: int) -> None:
    """At the expected proportion of events; the right-hand sides are those of a Beta-mixture e-process (with 0.1 %
    base error rate: 5.8k, 10.5k, 83k, 148k and 35k requests)."""
    theta = share * ratio / (share * ratio + 1 - share)
    process = RiskRatioProcess()
    process.update(share, num_errors * theta, num_errors * (1 - theta))
    assert process.log_e >= -math.log(alpha)


def test_shares_without_information_are_left_out() -> None:
    process = RiskRatioProcess()
    process.update(1.0, num_candidate=50)
    process.update(0.0, num_control=50)
    assert (process.log_e, process.num_candidate, process.num_control) == (0.0, 0, 0)


def test_evidence_once_reached_stays_reached() -> None:
    process = RiskRatioProcess()
    process.update(0.1, num_candidate=10)
    assert not process.reached(0.001)
    process.look()
    assert process.reached(0.001)
    process.update(0.1, num_control=500)
    process.look()
    assert process.log_e < 0 < process.log_e_max
    assert process.reached(0.001)
    assert process.p_value == pytest.approx(math.exp(-process.log_e_max))


def test_state_continues_exactly() -> None:
    one = fed([(0.1, True), (0.25, False), (0.5, True)])
    two = RiskRatioProcess()
    two.load_state_dict(one.state_dict())
    for process in (one, two):
        process.update(0.5, 3, 1)
        process.look()
    assert two.summary() == one.summary()
    assert one.summary()["observed_over_expected"] == pytest.approx(5 / (0.1 + 0.25 + 0.5 + 4 * 0.5))


def test_bad_grids_and_foreign_states_are_refused() -> None:
    with pytest.raises(ConfigError, match="risk ratios"):
        RiskRatioProcess(ratios=(1.0, 2.0))
    with pytest.raises(ConfigError, match="risk ratios"):
        RiskRatioProcess(tolerated_ratio=0.5)
    with pytest.raises(ConfigError, match="grid"):
        RiskRatioProcess(ratios=(2.0,)).load_state_dict(RiskRatioProcess().state_dict())
