"""What the endpoint tells the guard, and what the guard tells the endpoint.

The supervisor owns both ends: it passes on what its workers saw (`Observation`, `Feedback`), asks `Guard.tick` at least
once a second, and applies each `Decision` as a change of weights.

    guard = Guard(config, {"champion": 1.0, "challenger": 0.0}, clock=time.time, log=DecisionLog(path))
    apply(guard.start_rollout("challenger", now_s=now).weights)
    guard.observe(Observation(...))               # every request, in any order, single or in batches
    guard.feedback(Feedback(...))                 # every value sent to /feedback
    for decision in guard.tick(now): apply(decision.weights)
    guard.weights_changed({...}, now)             # a person changed the weights
    guard.worker_crashed("challenger", now)
    guard.state()                                 # JSON for /ui, /metrics and DescribeEndpoint

Opened on the log of an earlier process, a guard goes on where that one stood; `guard.weights` are then in force.
Everything is called from one thread at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Status = Literal["ok", "client_error", "model_error", "rejected"]
Kind = Literal["set_weights", "rollback", "promote", "hold", "invalid"]


@dataclass(frozen=True, slots=True)
class Observation:
    """One request, as it was assigned (a fallback after a crash stays with the variant first assigned).

    Args:
        time_s: when it was assigned, on the guard's clock.
        variant: the variant it was assigned to. Shadow, health and warm-up requests are never observed.
        unit_hash: the 64-bit hash the router drew its bucket from.
        status: "ok"; "client_error" (400, 413, 415, 422); "model_error" (424, 5xx, a crash, a missed deadline while
            executing); "rejected" (429, 503: the queue was full, which says more of the load than of the variant).
        latency_ms: time in the variant's hands, without the wait in the queue, which grows with the variant's share.
        shares: every variant's share of the traffic at the moment of assignment; they sum to 1.
        pinned: the caller chose the variant (TargetVariant): counted, but neither evidence nor a reason to break.
        sticky: the unit was named by the caller (a session) and may return, so only its first event is evidence.
    """

    time_s: float
    variant: str
    unit_hash: int
    status: Status
    latency_ms: float
    shares: Mapping[str, float]
    pinned: bool = False
    sticky: bool = False

    @property
    def share(self) -> float:
        """The assigned variant's own share."""
        return self.shares[self.variant]


@dataclass(frozen=True, slots=True)
class Feedback:
    """One outcome sent to /feedback, joined to the request it is about.

    Args:
        variant: the variant that request was assigned to; leave out pinned ones.
        metric: a name of `GuardConfig.metrics`.
        value: finite.
        unit_hash: of that request; several values of one unit count as their mean.
        shares: at the assignment of that request; None takes those of now.
    """

    time_s: float
    variant: str
    metric: str
    value: float
    unit_hash: int
    shares: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What the guard wants done, and why.

    Args:
        kind: "set_weights": the next step of a rollout, or a broken variant taken out. "rollback": all traffic back to
            the control. "promote": the candidate is the new control; the old one may go at
            `evidence["retire_at_s"]`. "hold": no change until more is known. "invalid": the split of the traffic
            is not what was asked for (sample-ratio mismatch); no verdict will be given.
        weights: of every variant, to be applied at once; those in force when nothing changes.
        evidence: JSON: the numbers the decision rests on.
        reason: one sentence.
    """

    kind: Kind
    time_s: float
    weights: dict[str, float]
    reason: str
    evidence: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
