"""Plans, levels, and SageMaker's DeploymentConfig."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from lab.core.errors import ConfigError
from lab.serve.guard.config import GuardConfig, LatencyConfig, MetricConfig, RolloutConfig
from lab.serve.guard.deployment import rollout_of
from lab.serve.guard.weights import move_all, shares_of, split_pair

GUARDRAILS = GuardConfig().guardrails()


@pytest.mark.parametrize(
    ("config", "shares"),
    [
        (RolloutConfig(), (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)),
        (RolloutConfig(kind="all_at_once"), (1.0,)),
        (RolloutConfig(kind="canary", canary_percent=30), (0.3, 1.0)),
        (RolloutConfig(kind="linear", linear_step_percent=25), (0.25, 0.5, 0.75, 1.0)),
        (RolloutConfig(kind="linear", linear_step_percent=30), (0.3, 0.6, 0.9, 1.0)),
        (RolloutConfig(kind="linear", linear_step_percent=50), (0.5, 1.0)),
    ],
)
def test_shares_of_plans(config: RolloutConfig, shares: tuple[float, ...]) -> None:
    assert config.shares() == pytest.approx(shares)


def test_the_level_is_divided_among_the_guardrails() -> None:
    assert GUARDRAILS == ("model_error", "client_error", "latency_p50", "latency_p95", "latency_p99")
    assert GuardConfig().guardrail_alpha == pytest.approx(0.001)
    metrics = {"accuracy": MetricConfig(role="primary"), "clicks": MetricConfig(role="signal")}
    config = GuardConfig(alpha=0.01, latency=None, metrics=metrics)
    assert config.guardrails() == ("model_error", "client_error", "accuracy")
    assert config.primary == "accuracy"
    assert config.guardrail_alpha == pytest.approx(0.01 / 3)


@pytest.mark.parametrize(
    "bad",
    [
        {"rollout": {"ramp_percents": [5, 5, 100]}},
        {"rollout": {"ramp_percents": [1, 50]}},
        {"rollout": {"canary_percent": 60}},
        {"latency": {"quantiles": [0.5, 1.0]}},
        {"metrics": {"a": {"role": "primary"}, "b": {"role": "primary"}}},
        {"events": ["model_error", "model_error"]},
        {"alpha": 0.0},
        {"unknown": 1},
    ],
)
def test_nonsense_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GuardConfig.model_validate(bad)


def test_config_is_frozen_and_survives_json() -> None:
    config = GuardConfig(latency=LatencyConfig(quantiles=(0.9,)), metrics={"a": MetricConfig(margin=0.1)})
    assert GuardConfig.model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ValidationError):
        config.alpha = 0.1  # type: ignore[misc]


def blue_green(**routing: Any) -> dict[str, Any]:
    return {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing}}


CANARY_EXAMPLE = {
    "BlueGreenUpdatePolicy": {
        "TrafficRoutingConfiguration": {
            "Type": "CANARY",
            "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 30},
            "WaitIntervalInSeconds": 600,
        },
        "TerminationWaitInSeconds": 600,
        "MaximumExecutionTimeoutInSeconds": 1800,
    },
    "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "model_error"}, {"AlarmName": "breaker"}]},
}


def test_the_documentations_canary_example() -> None:
    assert rollout_of(CANARY_EXAMPLE, GUARDRAILS) == RolloutConfig(
        kind="canary", canary_percent=30, bake_s=600, termination_wait_s=600, max_duration_s=1800, min_requests=0
    )


def test_linear_counts_instances_relative_to_the_fleet() -> None:
    size = {"Type": "INSTANCE_COUNT", "Value": 2}
    plan = rollout_of(blue_green(Type="LINEAR", LinearStepSize=size), GUARDRAILS, num_instances=10)
    assert (plan.kind, plan.linear_step_percent) == ("linear", 20.0)


def test_no_policy_is_all_at_once_and_rolling_is_linear() -> None:
    assert rollout_of({}, GUARDRAILS).shares() == (1.0,)
    batch = {"MaximumBatchSize": {"Type": "CAPACITY_PERCENT", "Value": 40}, "WaitIntervalInSeconds": 60}
    plan = rollout_of({"RollingUpdatePolicy": batch}, GUARDRAILS, min_requests=50)
    assert (plan.shares(), plan.bake_s, plan.min_requests) == ((0.4, 0.8, 1.0), 60.0, 50)


@pytest.mark.parametrize(
    ("deployment", "message"),
    [
        (blue_green(Type="BLUE"), "type of traffic routing"),
        (blue_green(Type="CANARY"), "CanarySize is needed"),
        (blue_green(Type="CANARY", CanarySize={"Type": "CAPACITY_PERCENT", "Value": 51}), "out of range"),
        (blue_green(Type="LINEAR", LinearStepSize={"Type": "CAPACITY_PERCENT", "Value": 9}), "out of range"),
        (blue_green(Type="ALL_AT_ONCE", WaitIntervalInSeconds=3601), "WaitIntervalInSeconds"),
        (blue_green(Type="ALL_AT_ONCE", Wait=3), "unknown key"),
        ({"Blue": {}}, "unknown key"),
        ({**CANARY_EXAMPLE, "RollingUpdatePolicy": {"MaximumBatchSize": {}}}, "one policy"),
        ({"AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "Invocation4XXErrors"}]}}, "no such alarm"),
        ({"AutoRollbackConfiguration": {"Alarms": []}}, "1 to 10 alarms"),
    ],
)
def test_unusable_deployments_are_refused(deployment: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rollout_of(deployment, GUARDRAILS)


def test_weights_move_without_loss() -> None:
    weights = {"a": 3.0, "b": 1.0, "c": 0.0}
    assert shares_of(weights) == {"a": 0.75, "b": 0.25, "c": 0.0}
    assert split_pair(weights, "c", "a", 0.25) == {"a": 2.25, "b": 1.0, "c": 0.75}
    assert move_all(weights, "a", ["b", "c"]) == {"a": 0.0, "b": 4.0, "c": 0.0}
    assert move_all({"a": 2.0, "b": 0.0, "c": 0.0}, "a", ["b", "c"]) == {"a": 0.0, "b": 1.0, "c": 1.0}
