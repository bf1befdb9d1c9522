"""The guard's decisions on made-up traffic: promoted, held, rolled back, invalid, broken."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from lab.core.errors import ConfigError, DataError
from lab.core.seeding import stream
from lab.serve.guard.config import BreakerConfig, GuardConfig, LatencyConfig, MetricConfig, RolloutConfig
from lab.serve.guard.events import Feedback
from lab.serve.guard.guard import Guard
from lab.serve.guard.log import DecisionLog
from tests.serve.guard.traffic import Endpoint, Variant, endpoint, observation

LATENCY = LatencyConfig(num_calibration=500)
QUICK = RolloutConfig(ramp_percents=(10, 50, 100), bake_s=10, min_requests=20, termination_wait_s=30)


def kinds(one: Endpoint) -> list[str]:
    return [decision.kind for decision in one.decisions]


def test_a_good_candidate_climbs_and_is_promoted() -> None:
    one = endpoint(GuardConfig(latency=LATENCY, rollout=QUICK))
    one.serve(1000)
    first = one.guard.start_rollout("new", now_s=one.now_s)
    assert (first.kind, first.weights) == ("set_weights", {"old": 0.9, "new": 0.1})
    one.serve(5000)
    assert kinds(one) == ["set_weights", "set_weights", "promote"]
    assert [d.weights["new"] for d in one.decisions] == [0.5, 1.0, 1.0]
    promoted = one.decisions[-1]
    assert promoted.evidence["retire_at_s"] == pytest.approx(promoted.time_s + 30)
    assert promoted.evidence["guardrails"]["model_error"]["num_control"] > 0
    assert one.guard.control == "new"
    assert one.guard.state()["rollout"]["phase"] == "promoted"


def test_steps_last_their_time_and_see_their_requests() -> None:
    one = endpoint(GuardConfig(latency=None, rollout=QUICK))
    one.guard.start_rollout("new", now_s=0.0)
    assert one.wait(1000.0) == []  # time alone is not enough
    one.serve(150)
    assert one.serve(900)[0].kind == "set_weights"
    times = [d.time_s for d in one.decisions]
    one.serve(3000)
    assert one.decisions[1].time_s - times[0] >= QUICK.bake_s


@pytest.mark.parametrize(
    ("bad", "guardrail"),
    [(Variant(error_rate=0.03), "model_error"), (Variant(latency_ms=20.0), "latency_p9")],
)
def test_a_bad_candidate_is_rolled_back_with_its_evidence(bad: Variant, guardrail: str) -> None:
    plan = QUICK.model_copy(update={"bake_s": 60.0})
    one = endpoint(GuardConfig(latency=LATENCY, rollout=plan), new=bad)
    one.serve(1000)
    one.guard.start_rollout("new", now_s=one.now_s)
    one.serve(11_000)
    last = one.decisions[-1]
    assert (last.kind, last.weights) == ("rollback", {"old": 1.0, "new": 0.0})
    broken = last.evidence["broken_guardrails"]
    guardrail = next(name for name in broken if name.startswith(guardrail))
    assert broken[guardrail]["e_value_max"] >= 1000
    assert guardrail in last.reason
    assert one.serve(500) == []
    with pytest.raises(ConfigError, match="cannot be rolled out"):
        one.guard.start_rollout("old")
    assert one.guard.start_rollout("new", now_s=one.now_s).weights["new"] == pytest.approx(0.1)
    assert one.guard.state()["variants"]["new"]["guardrails"][guardrail]["e_value"] == 1.0  # nothing carried over


def test_a_plain_experiment_loses_a_failing_variant() -> None:
    one = endpoint(GuardConfig(latency=None), new=Variant(error_rate=0.05), weights={"old": 1.0, "new": 1.0})
    one.serve(4000)
    assert kinds(one) == ["rollback"]
    assert one.guard.weights == {"old": 2.0, "new": 0.0}
    assert "model_error" in one.guard.stopped["new"]


def test_the_breaker_acts_within_a_second_of_a_disaster() -> None:
    one = endpoint(GuardConfig(latency=None, events=()), new=Variant(error_rate=1.0), weights={"old": 1.0, "new": 1.0})
    one.serve(100)
    assert kinds(one) == ["rollback"]
    assert one.decisions[0].evidence["breaker"]["num_failed"] >= 10
    assert one.guard.state()["breakers"]["new"]["reason"].startswith("too many")


def test_a_broken_control_hands_over_and_the_endpoint_goes_on() -> None:
    one = endpoint(GuardConfig(latency=None), old=Variant(error_rate=1.0), weights={"old": 3.0, "new": 1.0})
    one.serve(200)
    assert kinds(one) == ["set_weights"]
    assert one.guard.weights == {"old": 0.0, "new": 4.0}
    one.variants["new"].error_rate = 1.0
    one.serve(300)
    assert kinds(one) == ["set_weights", "hold"]  # said once; nobody is left
    assert one.guard.weights == {"old": 0.0, "new": 4.0}


def test_after_promotion_the_breaker_still_goes_back() -> None:
    one = endpoint(GuardConfig(latency=None, rollout=RolloutConfig(kind="all_at_once", bake_s=5)))
    one.guard.start_rollout("new", now_s=0.0)
    one.serve(700)
    assert kinds(one) == ["promote"]
    one.variants["new"].error_rate = 1.0
    one.serve(100)
    assert one.guard.weights == {"old": 1.0, "new": 0.0}


def test_a_crash_loop_is_a_disaster() -> None:
    guard = Guard(GuardConfig(), {"old": 1.0, "new": 1.0})
    for time_s in (0.0, 1.0, 2.0):
        guard.worker_crashed("new", time_s)
    (decision,) = guard.tick(2.5)
    assert (decision.kind, decision.weights) == ("rollback", {"old": 2.0, "new": 0.0})


def test_a_candidate_that_takes_the_control_down_with_it_goes_alone() -> None:
    """Workers hold requests of both, so both are blamed for their crashes."""
    guard = Guard(GuardConfig(), {"old": 1.0, "new": 1.0})
    for time_s in (0.0, 1.0, 2.0):
        for name in ("old", "new"):
            guard.worker_crashed(name, time_s)
    (decision,) = guard.tick(2.5)
    assert (decision.kind, decision.weights) == ("rollback", {"old": 2.0, "new": 0.0})
    assert guard.breakers["old"].opened is None
    assert guard.tick(3.0) == []
    assert guard.start_rollout("new", now_s=4.0).weights["old"] == pytest.approx(1.98)
    assert guard.tick(5.0) == []


def test_a_mismatched_split_is_invalid_and_never_promoted() -> None:
    one = endpoint(GuardConfig(latency=None, rollout=QUICK))
    one.guard.start_rollout("new", now_s=0.0)
    one.serve(6000, misroute=0.3)
    assert kinds(one)[-1] == "invalid"
    assert one.decisions[-1].evidence["sample_ratio"]["e_value"] >= 1000
    assert one.guard.rollout is not None
    assert one.guard.rollout.phase == "invalid"
    weights = dict(one.guard.weights)
    assert one.serve(3000) == []
    assert one.guard.weights == weights
    one.variants["new"].error_rate = 1.0  # a disaster still counts
    one.serve(400)
    assert kinds(one)[-1] == "rollback"


PRIMARY = {"good": MetricConfig(role="primary", margin=0.05, planned_units=2000)}


@pytest.mark.parametrize(("outcome", "last"), [(0.82, "promote"), (0.3, "rollback")], ids=["as good", "worse"])
def test_the_primary_metric_decides(outcome: float, last: str) -> None:
    config = GuardConfig(latency=None, metrics=PRIMARY, rollout=QUICK)
    one = endpoint(config, new=Variant(outcome=outcome), metric="good")
    one.guard.start_rollout("new", now_s=0.0)
    while last not in kinds(one) and one.now_s < 250:
        one.serve(500)
    assert kinds(one)[-1] == last
    found = next(d for d in reversed(one.decisions) if d.kind == last).evidence["metrics"]["good"]
    assert found["candidate"]["estimate"] == pytest.approx(outcome, abs=0.06)


def test_without_feedback_it_holds_once_and_times_out() -> None:
    plan = QUICK.model_copy(update={"max_duration_s": 300.0})
    one = endpoint(GuardConfig(latency=None, metrics=PRIMARY, rollout=plan))
    one.guard.start_rollout("new", now_s=0.0)
    one.serve(4000)
    assert kinds(one) == ["set_weights", "hold"]
    assert "undecided" in one.decisions[-1].reason
    one.wait(300.0)
    assert kinds(one)[-1] == "rollback"
    assert "not promoted within 300 s" in one.decisions[-1].reason
    assert one.guard.weights == {"old": 1.0, "new": 0.0}


def test_both_arms_of_a_metric_are_of_one_size_at_every_share() -> None:
    config = GuardConfig(latency=None, metrics={"good": MetricConfig(role="signal")})
    one = endpoint(config, weights={"old": 0.95, "new": 0.05}, metric="good")
    one.serve(10_000)
    found = one.guard.state()["variants"]["new"]["metrics"]["good"]
    candidate, control = found["candidate"]["num_units"], found["control"]["num_units"]
    assert candidate == pytest.approx(500, abs=90)
    assert control == pytest.approx(candidate, abs=130)  # four standard deviations of either
    assert found["display_only"]["probability_better"] == pytest.approx(0.5, abs=0.5)


def test_a_units_values_count_as_their_mean_and_pinned_or_unknown_ones_not() -> None:
    config = GuardConfig(latency=None, metrics={"score": MetricConfig(role="signal", min_units=2)})
    guard = Guard(config, {"old": 1.0, "new": 1.0})
    for value in (1.0, 3.0):
        guard.feedback(Feedback(0.0, "new", "score", value, unit_hash=5))
    guard.feedback(Feedback(0.0, "new", "score", 10.0, unit_hash=2**64 - 1))
    arm = guard.state()["variants"]["new"]["metrics"]["score"]["candidate"]
    assert (arm["num_units"], arm["estimate"]) == (2, pytest.approx(6.0))
    for metric, value in (("other", 1.0), ("score", float("nan"))):
        with pytest.raises(DataError):
            guard.feedback(Feedback(0.0, "new", metric, value, unit_hash=1))


def test_one_sessions_errors_are_one_piece_of_evidence() -> None:
    config = GuardConfig(latency=None, breaker=BreakerConfig(enabled=False))
    retries, clients = (Guard(config, {"old": 1.0, "new": 1.0}) for _ in range(2))
    for i in range(40):
        retries.observe(observation("new", "model_error", unit=7, sticky=True))
        clients.observe(observation("new", "model_error", unit=i, sticky=True))
    assert retries.tick(1.0) == []
    assert clients.tick(1.0)[0].kind == "rollback"
    errors = retries.state()["variants"]["new"]["guardrails"]["model_error"]
    assert errors["num_candidate"] == 1
    assert retries.state()["variants"]["new"]["totals"]["new"] == {"model_error": 40}


def batched(seed: int, spacing_s: float) -> dict[str, float]:
    """Equal variants, their requests answered in batches, all of a batch in the same time: log e per quantile."""
    rng = stream(seed, "batched")
    guard = Guard(
        GuardConfig(latency=LatencyConfig(num_calibration=200, spacing_s=spacing_s)), {"old": 1.0, "new": 1.0}
    )
    for batch in range(700):
        for name in ("old", "new"):
            latency_ms = float(np.exp(rng.standard_normal()))
            for i in range(int(rng.binomial(10, 0.5))):
                time_s = 0.02 * batch + 0.001 * i
                guard.observe(observation(name, unit=int(rng.integers(2**62)), time_s=time_s, latency_ms=latency_ms))
    guard.evidence.flush(1000.0)
    found = guard.evidence.processes["new"]
    return {name: found[name].log_e_max for name in ("latency_p50", "latency_p95", "latency_p99")}


def test_requests_of_one_batch_are_not_evidence_against_an_equal_variant() -> None:
    spaced = [max(batched(seed, spacing_s=0.1).values()) for seed in range(3)]
    assert max(spaced) < math.log(1000)


def test_pinned_requests_are_counted_and_prove_nothing() -> None:
    guard = Guard(GuardConfig(), {"old": 1.0, "new": 1.0})
    for i in range(500):
        guard.observe(observation("new", "model_error", unit=i, pinned=True))
    assert guard.tick(1.0) == []
    found = guard.state()["variants"]["new"]
    assert found["totals"]["new"] == {"model_error": 500, "pinned": 500}
    assert found["sample_ratio"]["num_units"] == {"old": 0, "new": 0}


def test_grouping_of_observations_between_ticks_changes_nothing() -> None:
    """The same 700 requests, with a tick after each, after some, and at the end."""
    states = []
    for every in (1, 37, 700):
        guard = Guard(GuardConfig(latency=LatencyConfig(num_calibration=100)), {"old": 1.0, "new": 1.0})
        for i in range(700):
            variant, status = ("new" if i % 3 else "old"), ("model_error" if i % 97 == 0 else "ok")
            shares = {"old": 0.4, "new": 0.6} if i < 400 else {"old": 0.3, "new": 0.7}
            latency_ms = float(i * 37 % 101)
            guard.observe(observation(variant, status, unit=i, time_s=0.05 * i, latency_ms=latency_ms, shares=shares))
            if i % every == every - 1:
                guard.evidence.flush(0.05 * i)
        guard.evidence.flush(1000.0)
        states.append(guard.evidence.state_dict())
    for other in states[1:]:
        for name, process in states[0]["processes"]["new"].items():
            assert other["processes"]["new"][name]["log_wealth"] == pytest.approx(process["log_wealth"], abs=1e-8)
        assert other["sample_ratio"]["log_wealth"] == pytest.approx(states[0]["sample_ratio"]["log_wealth"], abs=1e-8)
        assert other["totals"] == states[0]["totals"]


def test_a_person_overrules() -> None:
    one = endpoint(GuardConfig(latency=None, rollout=QUICK))
    one.guard.start_rollout("new", now_s=0.0)
    decision = one.guard.weights_changed({"old": 0.2, "new": 0.8}, 5.0)
    assert (decision.kind, decision.weights) == ("set_weights", {"old": 0.2, "new": 0.8})
    assert "rollout of new ends" in decision.reason
    one.serve(3000)
    assert one.decisions == []
    for bad in ({"old": 1.0}, {"old": 0.0, "new": 0.0}, {"old": -1.0, "new": 2.0}):
        with pytest.raises(ConfigError, match="cannot be set"):
            one.guard.weights_changed(bad)


def test_three_variants_each_against_the_control() -> None:
    guard = Guard(GuardConfig(latency=None), {"a": 2.0, "b": 1.0, "c": 1.0})
    shares = {"a": 0.5, "b": 0.25, "c": 0.25}
    for i in range(60):
        for name in ("a", "b", "c", "c", "c"):
            status = "model_error" if name == "c" or i % 10 == 0 else "ok"
            guard.observe(observation(name, status, unit=len(shares) * i, shares=shares, sticky=False))
    decisions = guard.tick(1.0)
    assert decisions[0].weights == {"a": 3.0, "b": 1.0, "c": 0.0}
    assert guard.state()["variants"]["b"]["guardrails"]["model_error"]["e_value"] < 20


def test_only_sensible_rollouts_start() -> None:
    guard = Guard(GuardConfig(rollout=QUICK), {"old": 1.0, "new": 0.0})
    with pytest.raises(ConfigError, match="cannot be rolled out"):
        guard.start_rollout("other")
    guard.start_rollout("new", now_s=0.0)
    with pytest.raises(ConfigError, match="a rollout is running"):
        guard.start_rollout("new", now_s=1.0)
    with pytest.raises(ConfigError, match="control"):
        Guard(GuardConfig(control="absent"), {"old": 1.0})


def test_state_and_decisions_are_json_and_logged() -> None:
    log = DecisionLog()
    one = endpoint(GuardConfig(latency=LATENCY, metrics=PRIMARY, rollout=QUICK), log, metric="good")
    one.guard.start_rollout("new", now_s=0.0)
    one.serve(1500)
    assert json.loads(json.dumps(one.guard.state(), allow_nan=False))["control"] == "old"
    logged = log.decisions()
    assert [entry["kind"] for entry in logged] == ["set_weights", *kinds(one)]
    assert logged[-1]["weights"] == one.decisions[-1].weights
    assert log.decisions(after_id=logged[0]["id"])[0]["id"] == logged[1]["id"]
