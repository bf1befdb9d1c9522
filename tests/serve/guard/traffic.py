"""Made-up traffic for a guard: requests of a candidate and a control with chosen faults, on a clock of its own."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lab.core.seeding import stream
from lab.serve.guard.config import GuardConfig
from lab.serve.guard.events import Decision, Feedback, Observation
from lab.serve.guard.guard import Guard
from lab.serve.guard.log import DecisionLog
from lab.serve.guard.weights import shares_of


@dataclass
class Variant:
    """What requests of one variant are like. Latencies are log-normal with this median."""

    error_rate: float = 0.001
    latency_ms: float = 10.0
    outcome: float = 0.8
    """Probability that the outcome metric is 1."""


@dataclass
class Endpoint:
    """A guard with traffic; `decisions` collects all it said."""

    guard: Guard
    variants: dict[str, Variant]
    requests_per_s: float = 100.0
    now_s: float = 0.0
    seed: int = 0
    metric: str | None = None
    decisions: list[Decision] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rng = stream(self.seed, "traffic")

    def serve(self, num: int, misroute: float = 0.0) -> list[Decision]:
        """`num` requests with a tick after every second of traffic; `misroute` of the candidate's go to the control."""
        new: list[Decision] = []
        per_tick = int(self.requests_per_s)
        for start in range(0, num, per_tick):
            self._second(min(per_tick, num - start), misroute)
            new += self.guard.tick(self.now_s)
        self.decisions += new
        return new

    def wait(self, seconds: float) -> list[Decision]:
        """Time passes without a request."""
        self.now_s += seconds
        new = self.guard.tick(self.now_s)
        self.decisions += new
        return new

    def _second(self, num: int, misroute: float) -> None:
        names, shares = list(self.variants), shares_of(self.guard.weights)
        draws = self._rng.choice(len(names), size=num, p=[shares[name] for name in names])
        moved = self._rng.random(num) < misroute
        failed, normal = self._rng.random(num), self._rng.standard_normal(num)
        units = self._rng.integers(0, 2**63, num)
        good = self._rng.random(num)
        for i in range(num):
            self.now_s += 1.0 / self.requests_per_s
            name = names[0] if moved[i] else names[draws[i]]
            kind = self.variants[name]
            status = "model_error" if failed[i] < kind.error_rate else "ok"
            latency_ms = kind.latency_ms * float(np.exp(0.5 * normal[i]))
            self.guard.observe(Observation(self.now_s, name, int(units[i]), status, latency_ms, shares))
            if self.metric:
                value = float(good[i] < kind.outcome)
                self.guard.feedback(Feedback(self.now_s, name, self.metric, value, int(units[i]), shares))


def endpoint(
    config: GuardConfig, log: DecisionLog | None = None, *, old: Variant | None = None, new: Variant | None = None,
    weights: dict[str, float] | None = None, seed: int = 0, metric: str | None = None,
) -> Endpoint:  # fmt: skip
    """`old` is the control with all the weight, `new` the candidate."""
    guard = Guard(config, weights or {"old": 1.0, "new": 0.0}, clock=lambda: 0.0, log=log)
    return Endpoint(guard, {"old": old or Variant(), "new": new or Variant()}, seed=seed, metric=metric)


def observation(variant: str, status: str = "ok", *, unit: int = 0, time_s: float = 0.0, **more: object) -> Observation:
    """One request at even shares."""
    fields = {"latency_ms": 5.0, "shares": {"old": 0.5, "new": 0.5}} | more
    return Observation(time_s, variant, unit, status, **fields)  # type: ignore[arg-type]
