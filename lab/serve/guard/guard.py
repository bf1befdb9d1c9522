"""The guard of an endpoint: observations in, decisions out. `lab.serve.guard.events` shows how it is used.

Four layers, from reflex to judgement: the supervisor's gate before any weight (parity, warm-up), then here the circuit
breaker, the anytime-valid tests, and the rule of promotion. All that is decided is written down first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from lab.artifacts.files import sha256_json
from lab.core.errors import ConfigError
from lab.serve.guard.breaker import Breaker
from lab.serve.guard.config import GuardConfig, RolloutConfig
from lab.serve.guard.events import Decision, Feedback, Kind, Observation
from lab.serve.guard.evidence import Evidence
from lab.serve.guard.log import DecisionLog
from lab.serve.guard.rollout import Rollout, of_dict
from lab.serve.guard.weights import Weights, move_all, shares_of, split_pair


class Guard:
    """Watches variants and decides on their weights; one thread at a time.

    Args:
        variants: production variants (no shadows) with their weights, in a fixed order.
        clock: seconds; only used where no time is given.
        log: where state and decisions are kept; a log that holds the state of the same variants is continued.
        identity: names the models behind the variants, by their checksums say: evidence of others is not continued.

    Raises:
        ConfigError: the control is none of the variants, or no variant has a weight.
    """

    def __init__(
        self,
        config: GuardConfig,
        variants: Mapping[str, float],
        clock: Callable[[], float] = time.time,
        log: DecisionLog | None = None,
        identity: str = "",
    ) -> None:
        self.config, self.weights = config, dict(variants)
        self.control = config.control or next(iter(variants), "")
        if self.control not in variants or sum(variants.values()) <= 0.0:
            raise ConfigError("the guard needs a control and a weight above 0", got=(self.control, dict(variants)))
        self._clock, self.log = clock, log or DecisionLog()
        self._identity = sha256_json([identity, sorted(variants), config.model_dump(mode="json")])
        self.rollout: Rollout | None = None
        self.is_invalid = False
        self.stopped: dict[str, str] = {}
        """Variants that lost their weight, and why."""
        self.breakers = {name: Breaker(config.breaker) for name in variants}
        self._experiment = 1
        self._all_fail = False
        self.evidence = Evidence(config, list(variants), self.control, self.log)
        self.resumed = self._resume()

    def observe(self, observation: Observation) -> None:
        """Take one request. Raises KeyError for an unknown variant."""
        self.evidence.observe(observation)
        if observation.pinned:
            return
        breaker = self.breakers[observation.variant]
        breaker.observe(observation.time_s, observation.status, observation.latency_ms, observation.unit_hash)
        if self.rollout and observation.variant == self.rollout.candidate:
            self.rollout.num_requests += 1

    def feedback(self, feedback: Feedback) -> None:
        """Take one outcome. Raises DataError for an unknown metric or a value that is not finite."""
        self.evidence.feedback(feedback, self.weights)

    def worker_crashed(self, variant: str, now_s: float | None = None) -> None:
        self.breakers[variant].crashed(self._now(now_s))

    def start_rollout(self, candidate: str, plan: RolloutConfig | None = None, now_s: float | None = None) -> Decision:
        """Begin to give `candidate` the control's traffic; returns the first step.

        Raises:
            ConfigError: a rollout is running, or `candidate` cannot be one.
        """
        if self.rollout and self.rollout.is_running:
            raise ConfigError("a rollout is running", got=self.rollout.candidate, hint="wait for it or set the weights")
        if candidate not in self.weights or candidate == self.control:
            others = [name for name in self.weights if name != self.control]
            raise ConfigError("this variant cannot be rolled out", got=candidate, expected=others)
        now = self._now(now_s)
        self._new_experiment(self.control, keep_thresholds=True)
        self.stopped.pop(candidate, None)
        for name in (candidate, self.control):
            self.breakers[name].reset()
        self.rollout = Rollout(plan or self.config.rollout, candidate, self.control, now)
        weights = split_pair(self.weights, candidate, self.control, self.rollout.share)
        reason = f"rollout of {candidate} begins with {100 * self.rollout.share:g} %"
        decision = self._decide("set_weights", now, weights, reason, {"rollout": self.rollout.summary()})
        self._save([decision])
        return decision

    def weights_changed(self, weights: Mapping[str, float], now_s: float | None = None) -> Decision:
        """A person set the weights: a running rollout ends, and what was stopped and has weight again is watched anew.

        Raises:
            ConfigError: other variants than the guard's, a negative weight, or none above 0.
        """
        if set(weights) != set(self.weights) or min(weights.values()) < 0.0 or sum(weights.values()) <= 0.0:
            expected = f"of {list(self.weights)}, none negative, one above 0"
            raise ConfigError("these weights cannot be set", got=dict(weights), expected=expected)
        now = self._now(now_s)
        reason = "a person set the weights"
        if self.rollout and self.rollout.is_running:
            reason += f"; the rollout of {self.rollout.candidate} ends here"
            self.rollout = None
        for name in [name for name in self.weights if weights[name] > 0.0]:
            self.stopped.pop(name, None)
            self.breakers[name].reset()
        decision = self._decide("set_weights", now, dict(weights), reason, {})
        self._save([decision])
        return decision

    def tick(self, now_s: float | None = None) -> list[Decision]:
        """Judge everything seen since the last tick; decisions are in force and on disk when they are returned."""
        now = self._now(now_s)
        self.evidence.flush(now)
        decisions = [*self._break(now), *self._judge(now), *self._advance(now)]
        self._save(decisions)
        return decisions

    def _break(self, now: float) -> list[Decision]:
        decisions: list[Decision] = []
        for name in sorted(self.breakers, key=lambda name: name == self.control):
            breaker = self.breakers[name]
            breaker.close_window(now)
            if breaker.opened is None or self.weights[name] <= 0.0:
                continue
            targets = self._fallbacks(name)
            if targets:
                decisions.append(self._stop(name, targets, now, breaker.opened["reason"], {"breaker": breaker.opened}))
                for target in targets:  # what it was blamed for may have been the other's doing: it is watched anew
                    self.breakers[target].reset()
            elif not self._all_fail:
                self._all_fail = True
                reason = "every variant fails; there is none left to take the traffic"
                decisions.append(self._decide("hold", now, self.weights, reason, {"breaker": breaker.opened}))
        self._all_fail = self._all_fail and any(b.opened for b in self.breakers.values())
        return decisions

    def _fallbacks(self, name: str) -> list[str]:
        """Who takes over from a broken variant: the control, else whoever has traffic, else the one just replaced.

        The control takes over even while it fails too: it is the known one, and a worker that dies takes the requests
        of both with it.
        """
        if name != self.control and self.control not in self.stopped:
            return [self.control]
        sound = [
            v for v, breaker in self.breakers.items() if v != name and not breaker.opened and v not in self.stopped
        ]
        serving = [v for v in sound if self.weights[v] > 0.0]
        replaced = self.rollout.control if self.rollout and self.rollout.phase == "promoted" else None
        return serving or [v for v in sound if v == replaced]

    def _stop(self, name: str, targets: list[str], now: float, reason: str, evidence: dict[str, Any]) -> Decision:
        """Take all weight from a variant; a rollout it is part of is over."""
        evidence = evidence | {"variant": name, "control": self.control}
        evidence |= self.evidence.summary(name) if name != self.control else {}
        self.stopped[name] = reason
        if self.rollout and name == self.rollout.candidate:
            self.rollout.finish("rolled_back", now)
        elif self.rollout and self.rollout.is_running and name == self.rollout.control:
            self.rollout.finish("invalid", now)
        kind: Kind = "set_weights" if name == self.control else "rollback"
        return self._decide(kind, now, move_all(self.weights, name, targets), f"{name}: {reason}", evidence)

    def _judge(self, now: float) -> list[Decision]:
        decisions = []
        for arm in self.evidence.processes:
            harms = self.evidence.harms(arm) if self.weights[arm] > 0.0 and self.control not in self.stopped else {}
            if harms:
                reason = f"worse than {self.control} in {', '.join(harms)}"
                decisions.append(self._stop(arm, [self.control], now, reason, {"broken_guardrails": harms}))
        if self.evidence.is_mismatched and not self.is_invalid:
            self.is_invalid = True
            if self.rollout and self.rollout.is_running:
                self.rollout.finish("invalid", now)
            reason = "the traffic is not split as the weights say (sample-ratio mismatch); no verdict will be given"
            evidence = {"sample_ratio": self.evidence.sample_ratio.summary(), "alpha": self.config.srm_alpha}
            decisions.append(self._decide("invalid", now, self.weights, reason, evidence))
        return decisions

    def _advance(self, now: float) -> list[Decision]:
        rollout = self.rollout
        if rollout is None or not rollout.is_running:
            return []
        action, reason = rollout.advance(now, self.evidence.outcomes.primary_verdict(rollout.candidate))
        if action == "timeout":
            return [self._stop(rollout.candidate, [self.control], now, reason, {})]
        if action == "hold" and reason != rollout.hold_reason:
            rollout.hold_reason = reason
            return [self._decide("hold", now, self.weights, reason, self.evidence.summary(rollout.candidate))]
        if action == "next":
            return [self._next_step(rollout, now, reason)]
        return [self._promote(rollout, now, reason)] if action == "promote" else []

    def _next_step(self, rollout: Rollout, now: float, reason: str) -> Decision:
        rollout.next_step(now)
        weights = split_pair(self.weights, rollout.candidate, rollout.control, rollout.share)
        evidence = self.evidence.summary(rollout.candidate) | {"rollout": rollout.summary()}
        reason = f"{rollout.candidate} gets {100 * rollout.share:g} %: {reason}"
        return self._decide("set_weights", now, weights, reason, evidence)

    def _promote(self, rollout: Rollout, now: float, reason: str) -> Decision:
        """The candidate becomes the control, and a new experiment begins."""
        rollout.finish("promoted", now)
        evidence = self.evidence.summary(rollout.candidate) | {
            "variant": rollout.candidate, "control": self.control, "retire_at_s": rollout.retire_at_s,
        }  # fmt: skip
        decision = self._decide("promote", now, self.weights, reason, evidence)
        self._new_experiment(rollout.candidate, keep_thresholds=False)
        return decision

    def _new_experiment(self, control: str, *, keep_thresholds: bool) -> None:
        """All evidence starts from nothing; the control's latency quantiles may stay, being no evidence."""
        old, self.control = self.evidence.quantiles, control
        self._experiment += 1
        self.is_invalid = False
        self.log.forget_units()
        self.evidence = Evidence(self.config, list(self.weights), control, self.log)
        if keep_thresholds and old is not None:
            self.evidence.quantiles = old

    def _decide(self, kind: Kind, now: float, weights: Weights, reason: str, evidence: dict[str, Any]) -> Decision:
        self.weights = dict(weights)
        return Decision(kind, now, dict(weights), reason, evidence)

    def _now(self, now_s: float | None) -> float:
        return self._clock() if now_s is None else now_s

    def state(self) -> dict[str, Any]:
        """Everything for people and machines to see, as JSON."""
        shares = shares_of(self.weights)
        return {
            "experiment": self._experiment, "control": self.control, "weights": self.weights, "shares": shares,
            "rollout": self.rollout.summary() if self.rollout else None, "is_invalid": self.is_invalid,
            "resumed": self.resumed, "guardrail_alpha": self.config.guardrail_alpha,
            "breakers": {name: breaker.opened for name, breaker in self.breakers.items()}, "stopped": self.stopped,
            "variants": {arm: self.evidence.summary(arm) for arm in self.evidence.processes},
        }  # fmt: skip

    def _save(self, decisions: list[Decision]) -> None:
        state = {
            "identity": self._identity, "experiment": self._experiment, "control": self.control,
            "weights": self.weights, "rollout": self.rollout.to_dict() if self.rollout else None,
            "plan": self.rollout.config.model_dump(mode="json") if self.rollout else None,
            "is_invalid": self.is_invalid, "stopped": self.stopped,
            "opened": {name: breaker.opened for name, breaker in self.breakers.items()},
            "evidence": self.evidence.state_dict(),
        }  # fmt: skip
        self.log.save(state, str(self._experiment), decisions, self.evidence.changed_chunks())

    def _resume(self) -> bool:
        state = self.log.load_state()
        if state is None or state["identity"] != self._identity:
            self._experiment += state["experiment"] if state else 0
            self.log.forget_units()
            return False
        self.weights, self.control = state["weights"], state["control"]
        self._experiment, self.is_invalid, self.stopped = state["experiment"], state["is_invalid"], state["stopped"]
        if state["rollout"]:
            self.rollout = of_dict(state["rollout"], RolloutConfig.model_validate(state["plan"]))
        for name, opened in state["opened"].items():
            self.breakers[name].opened = opened
        self.evidence = Evidence(self.config, list(self.weights), self.control, self.log)
        self.evidence.load_state_dict(state["evidence"], self.log.load_seen_units())
        return True
