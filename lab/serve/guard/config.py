"""What the guard may decide and at which level of evidence. Frozen and strict like all configuration."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, Self

from pydantic import Field, model_validator

from lab.config.base import LabModel

EventName = Literal["model_error", "client_error"]


class BreakerConfig(LabModel):
    """Disasters, found without statistics: the variant loses its weight at once."""

    enabled: bool = True
    window: int = Field(20, ge=1)
    """Requests looked back on."""
    max_error_share: float = Field(0.5, gt=0, le=1)
    """Of the window that may fail before the breaker opens (model errors only)."""
    min_units: int = Field(3, ge=1)
    """Different units among the failures, so that one client with a poisonous input cannot take a variant down."""
    p99_limit_ms: float | None = Field(None, gt=0)
    """Hard limit; None: no limit."""
    p99_window_s: float = Field(10.0, gt=0)
    p99_windows: int = Field(3, ge=1)
    """Windows in a row whose p99 must be above the limit."""
    p99_min_requests: int = Field(100, ge=1)
    """Windows with fewer say nothing."""
    max_crashes: int = Field(3, ge=1)
    """Crashes of workers within `crash_window_s` that make a crash loop."""
    crash_window_s: float = Field(60.0, gt=0)


class LatencyConfig(LabModel):
    """Slow answers as events: exceedances of quantiles of the control, frozen before the comparison."""

    quantiles: tuple[float, ...] = Field((0.5, 0.95, 0.99), min_length=1)
    num_calibration: int = Field(1000, ge=20)
    """Latencies of the control that the quantiles are taken from."""
    tolerated_ratio: float = Field(1.25, ge=1)
    """A candidate may exceed a quantile this many times as often before it counts against it."""
    spacing_s: float = Field(0.1, gt=0)
    """One request in so much time is a sample, as those of one batch are slow together; at least twice the control's
    highest quantile."""
    wait_s: float = Field(5.0, ge=0)
    """How long a sample's answer is waited for; slower ones are the breaker's business."""

    @model_validator(mode="after")
    def _inside(self) -> Self:
        if not all(0.0 < q < 1.0 for q in self.quantiles) or len(set(self.quantiles)) != len(self.quantiles):
            raise ValueError("quantiles are different numbers between 0 and 1")
        return self


class MetricConfig(LabModel):
    """An outcome metric sent to /feedback."""

    better: Literal["higher", "lower"] = "higher"
    role: Literal["primary", "guardrail", "signal"] = "signal"
    """primary: decides on promotion, and rolls back. guardrail: rolls back. signal: shown only."""
    margin: float = Field(0.0, ge=0)
    """In the metric's unit: how much worse still passes (non-inferiority); 0 asks the primary to be better."""
    planned_units: int = Field(5000, ge=100)
    """N*: the number of units, both arms together, at which the interval should be narrowest."""
    min_units: int = Field(100, ge=2)
    """Per arm, before the interval is used."""


class RolloutConfig(LabModel):
    """How a candidate's share grows. `lab.serve.guard.deployment` makes one of SageMaker's DeploymentConfig."""

    kind: Literal["all_at_once", "canary", "linear", "ramp"] = "ramp"
    canary_percent: float = Field(10.0, gt=0, le=50)
    linear_step_percent: float = Field(20.0, gt=0, le=50)
    ramp_percents: tuple[float, ...] = Field((1.0, 5.0, 10.0, 25.0, 50.0, 100.0), min_length=1)
    bake_s: float = Field(300.0, ge=0)
    """Every step lasts at least so long, the last one (100 %) too."""
    min_requests: int = Field(100, ge=0)
    """Requests of the candidate before a step can end."""
    min_duration_s: float = Field(0.0, ge=0)
    """From the first step to 100 %: a whole day, say, so that all hours are seen."""
    max_duration_s: float | None = Field(None, gt=0)
    """Not promoted by then: rolled back. None: it holds until more is known."""
    termination_wait_s: float = Field(0.0, ge=0)
    """After promotion the old variant stays loaded so long, and the breaker can still go back to it."""

    @model_validator(mode="after")
    def _ramp_rises(self) -> Self:
        steps = (0.0, *self.ramp_percents)
        if any(low >= high for low, high in pairwise(steps)) or steps[-1] != 100.0:
            raise ValueError("ramp_percents must rise from above 0 to 100")
        return self

    def shares(self) -> tuple[float, ...]:
        """The candidate's share at each step; the last is 1."""
        if self.kind == "canary":
            return (self.canary_percent / 100.0, 1.0)
        if self.kind == "linear":
            num = -int(-100.0 // self.linear_step_percent)
            return (*(i * self.linear_step_percent / 100.0 for i in range(1, num)), 1.0)
        return tuple(p / 100.0 for p in self.ramp_percents) if self.kind == "ramp" else (1.0,)


class GuardConfig(LabModel):
    """The guard of one endpoint."""

    control: str | None = None
    """Variant the others are compared with and fall back to; None: the first."""
    alpha: float = Field(0.005, gt=0, lt=0.5)
    """Probability that any guardrail ever fires on a candidate that is no worse; divided equally among them."""
    srm_alpha: float = Field(0.001, gt=0, lt=0.5)
    """Probability that a sound split of the traffic is ever called invalid."""
    promote_alpha: float = Field(0.05, gt=0, lt=0.5)
    """Probability that a candidate worse than the margin on the primary metric is ever promoted."""
    events: tuple[EventName, ...] = ("model_error", "client_error")
    """Kinds of failure that are tested."""
    tolerated_error_ratio: float = Field(1.0, ge=1)
    latency: LatencyConfig | None = LatencyConfig()
    breaker: BreakerConfig = BreakerConfig()
    metrics: dict[str, MetricConfig] = Field(default_factory=dict)
    rollout: RolloutConfig = RolloutConfig()

    @model_validator(mode="after")
    def _one_primary(self) -> Self:
        if sum(metric.role == "primary" for metric in self.metrics.values()) > 1:
            raise ValueError("only one metric can be the primary one")
        if len(set(self.events)) != len(self.events):
            raise ValueError("an event is named twice")
        return self

    @property
    def primary(self) -> str | None:
        return next((name for name, metric in self.metrics.items() if metric.role == "primary"), None)

    def guardrails(self) -> tuple[str, ...]:
        """Names of everything that can roll a candidate back on evidence."""
        latency = tuple(latency_name(q) for q in self.latency.quantiles) if self.latency else ()
        metrics = tuple(name for name, metric in self.metrics.items() if metric.role != "signal")
        return (*self.events, *latency, *metrics)

    @property
    def guardrail_alpha(self) -> float:
        """The level of each (Bonferroni)."""
        return self.alpha / max(1, len(self.guardrails()))


def latency_name(quantile: float) -> str:
    """ "latency_p95" of 0.95."""
    return f"latency_p{100.0 * quantile:g}"
