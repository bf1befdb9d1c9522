"""A rollout step by step (EP-31..EP-39): when may the candidate's share grow, and when is it promoted?

    ramping  one of the monitored steps, candidate and control side by side
    baking   the candidate has all the traffic; only the breaker watches, as there is nothing to compare with
    promoted, rolled_back, invalid   over

A ramp passes from ramping to baking only with a verdict; without one it holds at its last monitored step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from lab.serve.guard.config import RolloutConfig
from lab.serve.guard.outcomes import Verdict

Phase = Literal["ramping", "baking", "promoted", "rolled_back", "invalid"]
Advance = Literal["wait", "next", "hold", "promote", "timeout"]
_KEPT = ("candidate", "control", "started_s", "step", "step_started_s", "num_requests", "phase", "hold_reason",
         "retire_at_s")  # fmt: skip


@dataclass
class Rollout:
    """Where a rollout stands.

    Args:
        step: index into `config.shares()`.
        num_requests: of the candidate since the step began.
        hold_reason: why it holds; empty while it does not.
    """

    config: RolloutConfig
    candidate: str
    control: str
    started_s: float
    step: int = 0
    step_started_s: float = 0.0
    num_requests: int = 0
    phase: Phase = "ramping"
    hold_reason: str = ""
    retire_at_s: float | None = None
    _shares: tuple[float, ...] = field(init=False, repr=False, default=())

    def __post_init__(self) -> None:
        self._shares = self.config.shares()
        self.step_started_s = self.step_started_s or self.started_s
        if self.phase == "ramping" and self.share == 1.0:
            self.phase = "baking"

    @property
    def share(self) -> float:
        """The candidate's share of the pair's traffic at this step."""
        return self._shares[self.step]

    @property
    def is_running(self) -> bool:
        return self.phase in ("ramping", "baking")

    def advance(self, now_s: float, verdict: Verdict) -> tuple[Advance, str]:
        """What time, requests and the primary metric allow at this moment, and why."""
        limit = self.config.max_duration_s
        if limit is not None and now_s - self.started_s >= limit:
            return "timeout", f"not promoted within {limit:g} s"
        if now_s - self.step_started_s < self.config.bake_s:
            return "wait", ""
        if self.phase == "baking":
            return "promote", f"{self.candidate} has borne all traffic for {self.config.bake_s:g} s"
        if self.num_requests < self.config.min_requests:
            return "wait", ""
        if self._shares[self.step + 1] < 1.0:
            return "next", f"step {self.step + 1} of {len(self._shares)} passed without a sign of harm"
        return self._may_take_all(now_s, verdict)

    def _may_take_all(self, now_s: float, verdict: Verdict) -> tuple[Advance, str]:
        if now_s - self.started_s < self.config.min_duration_s:
            return "wait", ""
        if verdict == "passed":
            return "next", "every guardrail held and the primary metric, where there is one, passed"
        return "hold", f"the primary metric is {verdict}: it does not show that the candidate is good enough"

    def next_step(self, now_s: float) -> None:
        """Enter the next step; at 100 % baking begins."""
        self.step += 1
        self.step_started_s, self.num_requests, self.hold_reason = now_s, 0, ""
        if self.share == 1.0:
            self.phase = "baking"

    def finish(self, phase: Phase, now_s: float) -> None:
        self.phase = phase
        self.hold_reason = ""
        self.retire_at_s = now_s + self.config.termination_wait_s if phase == "promoted" else None

    def to_dict(self) -> dict[str, Any]:
        """Position and progress as JSON; `of_dict` with the same configuration makes it again."""
        return {name: getattr(self, name) for name in _KEPT}

    def summary(self) -> dict[str, Any]:
        steps = [100.0 * share for share in self._shares]
        return self.to_dict() | {"kind": self.config.kind, "steps_percent": steps, "share": self.share}


def of_dict(data: dict[str, Any], config: RolloutConfig) -> Rollout:
    return Rollout(config, **data)
