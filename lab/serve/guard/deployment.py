"""SageMaker's DeploymentConfig (EP-30..EP-39) as a rollout.

Field names and limits are those of the API (`CreateEndpoint`, `UpdateEndpoint`). Percentages of a fleet become shares
of the traffic; instance counts are taken relative to `num_instances`. A rolling update moves the fleet in equal
batches, which for traffic is a linear shift. Alarms are the guard's own guardrails by name: they need not be listed to
be on, and a name that no guardrail has is refused rather than ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lab.core.errors import ConfigError
from lab.serve.guard.config import RolloutConfig

BREAKER_ALARM = "breaker"
SRM_ALARM = "sample_ratio"
_TOP = {"BlueGreenUpdatePolicy", "RollingUpdatePolicy", "AutoRollbackConfiguration"}
_BLUE_GREEN = {"TrafficRoutingConfiguration", "TerminationWaitInSeconds", "MaximumExecutionTimeoutInSeconds"}
_ROUTING = {"Type", "WaitIntervalInSeconds", "CanarySize", "LinearStepSize"}
_ROLLING = {
    "MaximumBatchSize", "WaitIntervalInSeconds", "MaximumExecutionTimeoutInSeconds", "RollbackMaximumBatchSize",
}  # fmt: skip


def rollout_of(
    deployment: Mapping[str, Any], guardrails: Sequence[str], num_instances: int = 1, min_requests: int = 0
) -> RolloutConfig:
    """The rollout that a DeploymentConfig asks for; an empty one is all at once, as SageMaker's default.

    Args:
        guardrails: names that alarms may have (`GuardConfig.guardrails()`; the breaker and the sample ratio always).
        num_instances: size of the fleet, for sizes of Type INSTANCE_COUNT.
        min_requests: SageMaker's steps end by time alone; more asks for evidence too.

    Raises:
        ConfigError: an unknown key or alarm, a value beyond SageMaker's limits, or both policies at once.
    """
    _known(deployment, _TOP, "DeploymentConfig")
    _check_alarms(deployment.get("AutoRollbackConfiguration") or {}, {*guardrails, BREAKER_ALARM, SRM_ALARM})
    blue_green, rolling = deployment.get("BlueGreenUpdatePolicy"), deployment.get("RollingUpdatePolicy")
    if blue_green and rolling:
        raise ConfigError("a deployment has one policy", got=sorted(deployment), expected="BlueGreen... or Rolling...")
    if rolling:
        fields = _rolling(rolling, num_instances)
    else:
        fields = _blue_green(blue_green or {"TrafficRoutingConfiguration": {"Type": "ALL_AT_ONCE"}}, num_instances)
    return RolloutConfig(min_requests=min_requests, **fields)


def _blue_green(policy: Mapping[str, Any], num_instances: int) -> dict[str, Any]:
    _known(policy, _BLUE_GREEN, "BlueGreenUpdatePolicy")
    routing = policy.get("TrafficRoutingConfiguration") or {}
    _known(routing, _ROUTING, "TrafficRoutingConfiguration")
    kind = routing.get("Type")
    sizes = {"CANARY": ("CanarySize", "canary_percent", 0.0), "LINEAR": ("LinearStepSize", "linear_step_percent", 10.0)}
    if kind not in ("ALL_AT_ONCE", *sizes):
        raise ConfigError("unknown type of traffic routing", got=kind, expected=["ALL_AT_ONCE", *sizes])
    fields: dict[str, Any] = {
        "kind": kind.lower(),
        "bake_s": _seconds(routing, "WaitIntervalInSeconds", 0, 3600, 0),
        "termination_wait_s": _seconds(policy, "TerminationWaitInSeconds", 0, 3600, 0),
        "max_duration_s": _seconds(policy, "MaximumExecutionTimeoutInSeconds", 600, 28800, None),
    }
    if kind in sizes:
        key, name, low = sizes[kind]
        fields[name] = _percent(routing.get(key), key, low, num_instances)
    return fields


def _rolling(policy: Mapping[str, Any], num_instances: int) -> dict[str, Any]:
    _known(policy, _ROLLING, "RollingUpdatePolicy")
    return {
        "kind": "linear",
        "linear_step_percent": _percent(policy.get("MaximumBatchSize"), "MaximumBatchSize", 5.0, num_instances),
        "bake_s": _seconds(policy, "WaitIntervalInSeconds", 0, 3600, 0),
        "max_duration_s": _seconds(policy, "MaximumExecutionTimeoutInSeconds", 600, 28800, None),
    }


def _percent(size: Any, key: str, low: float, num_instances: int) -> float:
    """A CapacitySize as a percentage of the fleet."""
    kind, value = (size.get("Type"), size.get("Value")) if isinstance(size, Mapping) else (None, None)
    if kind not in ("CAPACITY_PERCENT", "INSTANCE_COUNT") or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{key} is needed", got=size, expected='{"Type": "CAPACITY_PERCENT", "Value": 10}')
    percent = float(value) if kind == "CAPACITY_PERCENT" else 100.0 * value / num_instances
    if not low <= percent <= 50.0:
        raise ConfigError(f"{key} is out of range", got=f"{percent:g} %", expected=f"{low:g} to 50 % of the fleet")
    return percent


def _seconds(data: Mapping[str, Any], key: str, low: int, high: int, default: float | None) -> float | None:
    value = data.get(key, default)
    if value is None or value == default:
        return default
    if not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{key} is out of range", got=value, expected=f"{low} to {high}")
    return float(value)


def _known(data: Mapping[str, Any], keys: set[str], name: str) -> None:
    unknown = sorted(set(data) - keys)
    if unknown:
        raise ConfigError(f"unknown key in {name}", got=unknown, expected=sorted(keys))


def _check_alarms(rollback: Mapping[str, Any], names: set[str]) -> None:
    _known(rollback, {"Alarms"}, "AutoRollbackConfiguration")
    alarms = [alarm.get("AlarmName") for alarm in rollback.get("Alarms", [])]
    if len(alarms) > 10 or (rollback and not alarms):
        raise ConfigError("1 to 10 alarms can be listed", got=len(alarms))
    unknown = sorted(str(alarm) for alarm in alarms if alarm not in names)
    if unknown:
        raise ConfigError(
            "no such alarm", got=unknown, expected=sorted(names), hint="guardrails are on without being listed"
        )
