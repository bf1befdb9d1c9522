"""Outcome metrics (what /feedback brings): the difference between each arm and an equally large part of the control.

At a share of 1 % the control has 99 times the candidate's units. Pooled over a ramp, the control's mean would then
mostly come from the first steps and the candidate's from the last, and any trend of the metric over the day would look
like an effect (Simpson's paradox). So of the larger arm only as many units count as the other has on average, chosen by
a hash of the unit: at every step the two are of one size, as in GrowthBook's safe rollouts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lab.core.errors import DataError
from lab.serve.guard.config import GuardConfig, MetricConfig
from lab.serve.guard.events import Feedback
from lab.serve.guard.log import DecisionLog
from lab.serve.statistics.bayesian import normal_reading
from lab.serve.statistics.confidence_sequence import (
    Interval,
    difference_interval,
    difference_p_value,
    mean_interval,
    standard_error,
)
from lab.serve.statistics.moments import Moments
from lab.serve.statistics.units import uniform

EQUAL_SIZE_SALT = 1000
Verdict = Literal["passed", "undecided", "failed"]


class Outcomes:
    """Means per unit of every metric, for each arm and its control."""

    def __init__(self, config: GuardConfig, arms: Sequence[str], control: str, log: DecisionLog) -> None:
        self.config, self.control, self._log = config, control, log
        self._moments = {arm: {name: (Moments(), Moments()) for name in config.metrics} for arm in arms}
        """arm -> metric -> (candidate, control)."""

    def add(self, feedback: Feedback, shares: Mapping[str, float]) -> None:
        """Take one value.

        Raises:
            DataError: the metric is not configured or the value is not finite.
        """
        if feedback.metric not in self.config.metrics:
            raise DataError("unknown metric", got=feedback.metric, expected=tuple(self.config.metrics))
        if not math.isfinite(feedback.value):
            raise DataError(f"the value of {feedback.metric} is not a number", got=feedback.value)
        arms = list(self._moments) if feedback.variant == self.control else [feedback.variant]
        for arm in arms:
            other = arm if feedback.variant == self.control else self.control
            own_share, other_share = shares.get(feedback.variant, 0.0), shares.get(other, 0.0)
            if uniform(feedback.unit_hash, EQUAL_SIZE_SALT) * own_share < other_share:
                self._add(arm, feedback)

    def _add(self, arm: str, feedback: Feedback) -> None:
        is_control = feedback.variant == self.control
        series = f"{feedback.metric}/{arm}/{'control' if is_control else 'candidate'}"
        before, after = self._log.add_unit_value(series, feedback.unit_hash, feedback.value)
        moments = self._moments[arm][feedback.metric][is_control]
        if before is not None:
            moments.remove(before)
        moments.add(after)

    def _improvement(self, arm: str, name: str, alpha: float, sides: int) -> Interval | None:
        """Bounds of how much better the candidate is, positive is better; None while too little is known."""
        candidate, control = self._moments[arm][name]
        metric = self.config.metrics[name]
        if min(candidate.num, control.num) < metric.min_units or standard_error(candidate, control) == 0.0:
            return None
        interval = difference_interval(candidate, control, alpha, metric.planned_units, sides)
        if metric.better == "higher":
            return interval
        return Interval(-interval.estimate, -interval.high, -interval.low, interval.num_units)

    def harms(self, arm: str, alpha: float) -> dict[str, dict[str, Any]]:
        """Metrics on which the arm is worse than its margin, at the guardrails' level."""
        broken = {}
        for name, metric in self.config.metrics.items():
            if metric.role == "signal":
                continue
            improvement = self._improvement(arm, name, alpha, sides=1)
            if improvement is not None and improvement.high < -metric.margin:
                broken[name] = {"improvement": improvement.to_dict(), "margin": metric.margin, "alpha": alpha}
        return broken

    def primary_verdict(self, arm: str) -> Verdict:
        """Whether the primary metric lets the arm be promoted; "passed" when none is configured."""
        name = self.config.primary
        if name is None:
            return "passed"
        improvement = self._improvement(arm, name, self.config.promote_alpha, sides=1)
        if improvement is None:
            return "undecided"
        margin = self.config.metrics[name].margin
        return "passed" if improvement.low > -margin else "failed" if improvement.high < -margin else "undecided"

    def summary(self, arm: str) -> dict[str, Any]:
        return {name: self._summary(arm, name, metric) for name, metric in self.config.metrics.items()}

    def _summary(self, arm: str, name: str, metric: MetricConfig) -> dict[str, Any]:
        candidate, control = self._moments[arm][name]
        alpha, planned = self.config.promote_alpha, metric.planned_units
        shown = self._improvement(arm, name, alpha, sides=2)
        found: dict[str, Any] = {
            "role": metric.role, "better": metric.better, "margin": metric.margin, "alpha": alpha,
            "candidate": mean_interval(candidate, alpha, planned).to_dict(),
            "control": mean_interval(control, alpha, planned).to_dict(),
            "improvement": shown.to_dict() if shown else None,
        }  # fmt: skip
        if shown:
            reading = normal_reading(shown.estimate, standard_error(candidate, control))
            found["p_value"] = difference_p_value(candidate, control, alpha, planned)
            found["display_only"] = reading.to_dict()
        return found

    def state_dict(self) -> dict[str, Any]:
        return {
            arm: {name: [m.state_dict() for m in pair] for name, pair in metrics.items()}
            for arm, metrics in self._moments.items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._moments = {
            arm: {name: (Moments(**pair[0]), Moments(**pair[1])) for name, pair in metrics.items()}
            for arm, metrics in state.items()
        }
