"""All tests of one experiment: every variant against the control, fed by observations, read at each tick.

Observations are only counted when they come; the tests take the counts at the next tick. They see the same events in
groups, which leaves their values unchanged (every factor depends on its own event and the shares at that moment).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab.serve.guard.config import GuardConfig, latency_name
from lab.serve.guard.events import Feedback, Observation
from lab.serve.guard.log import Chunk, DecisionLog
from lab.serve.guard.outcomes import Outcomes
from lab.serve.statistics.bayesian import error_rate_reading
from lab.serve.statistics.latency import FrozenQuantiles, SpacedSamples
from lab.serve.statistics.risk_ratio import RiskRatioProcess
from lab.serve.statistics.sample_ratio import SampleRatioProcess
from lab.serve.statistics.units import SeenUnits

Shares = tuple[float, ...]
ASSIGNED = "assigned"
"""The purpose under which units are remembered for the sample-ratio test."""


@dataclass(frozen=True, slots=True)
class _Sample:
    """One request as the tests see it; `exceeded` are the names of quantiles it lay above."""

    shares: Shares
    variant: str
    unit_hash: int
    sticky: bool
    exceeded: tuple[str, ...] = ()


class Evidence:
    """The state of every test.

    Args:
        variants: all of them, in a fixed order.
        control: the one the others are compared with.
    """

    def __init__(self, config: GuardConfig, variants: Sequence[str], control: str, log: DecisionLog) -> None:
        self.config, self.variants, self.control = config, tuple(variants), control
        latency = config.latency
        self.quantiles = FrozenQuantiles(latency.quantiles, latency.num_calibration) if latency else None
        self.sample_ratio = SampleRatioProcess(self.variants)
        arms = [name for name in self.variants if name != control]
        self.processes = {arm: self._new_processes() for arm in arms}
        self.outcomes = Outcomes(config, arms, control, log)
        self.totals: dict[str, Counter[str]] = {name: Counter() for name in self.variants}
        purposes = [ASSIGNED, *self._event_names()]
        self._seen = {purpose: SeenUnits(salt) for salt, purpose in enumerate(purposes)}
        self._pending_units: Counter[tuple[Shares, str]] = Counter()
        self._pending_events: Counter[tuple[Shares, str, str]] = Counter()
        self._samples: SpacedSamples[_Sample] | None = None

    def _event_names(self) -> tuple[str, ...]:
        quantiles = self.config.latency.quantiles if self.config.latency else ()
        return (*self.config.events, *map(latency_name, quantiles))

    def _new_processes(self) -> dict[str, RiskRatioProcess]:
        latency = self.config.latency
        slow = {latency_name(q): latency.tolerated_ratio for q in latency.quantiles} if latency else {}
        tolerated = dict.fromkeys(self.config.events, self.config.tolerated_error_ratio) | slow
        return {name: RiskRatioProcess(ratio) for name, ratio in tolerated.items()}

    def observe(self, observation: Observation) -> None:
        """Count one request; pinned ones count in the totals only."""
        totals = self.totals[observation.variant]
        totals[observation.status] += 1
        if observation.pinned:
            totals["pinned"] += 1
            return
        shares = tuple(observation.shares.get(name, 0.0) for name in self.variants)
        if not any(shares):
            return
        if self._is_new(ASSIGNED, observation.unit_hash, observation.sticky):
            self._pending_units[shares, observation.variant] += 1
        if observation.status in self.config.events:
            failed = _Sample(shares, observation.variant, observation.unit_hash, observation.sticky)
            self._count(observation.status, failed)
        if self.quantiles is not None:
            self._take_latency(self.quantiles, shares, observation)

    def _is_new(self, purpose: str, unit_hash: int, sticky: bool) -> bool:
        """Whether this is new evidence: of a unit that may return only the first is."""
        return not sticky or self._seen[purpose].first(unit_hash)

    def _count(self, event: str, sample: _Sample) -> None:
        if self._is_new(event, sample.unit_hash, sample.sticky):
            self._pending_events[sample.shares, sample.variant, event] += 1

    def _take_latency(self, quantiles: FrozenQuantiles, shares: Shares, observation: Observation) -> None:
        """Calibrate, or offer as a sample; a request that failed takes its place too, with nothing exceeded."""
        answered = observation.status == "ok"
        if quantiles.thresholds_ms is None:
            if answered and observation.variant == self.control:
                quantiles.calibrate(observation.latency_ms)
            return
        above = quantiles.exceeded(observation.latency_ms) if answered else ()
        exceeded = tuple(latency_name(quantiles.quantiles[index]) for index in above)
        self.totals[observation.variant].update(exceeded)
        sample = _Sample(shares, observation.variant, observation.unit_hash, observation.sticky, exceeded)
        self._spaced(max(quantiles.thresholds_ms)).offer(observation.time_s, sample)

    def _spaced(self, highest_ms: float) -> SpacedSamples[_Sample]:
        """Made once the quantiles are known: requests of one batch were assigned within about one answer's time."""
        if self._samples is None:
            assert self.config.latency is not None
            spacing_s = max(self.config.latency.spacing_s, 2e-3 * highest_ms)
            self._samples = SpacedSamples(spacing_s, max(self.config.latency.wait_s, 10 * spacing_s))
        return self._samples

    def feedback(self, feedback: Feedback, weights: Mapping[str, float]) -> None:
        self.totals[feedback.variant]["feedback"] += 1
        self.outcomes.add(feedback, feedback.shares or weights)

    def flush(self, now_s: float) -> None:
        """Let the tests take what was counted since the last call."""
        for sample in self._samples.take(now_s) if self._samples else ():
            self.totals[sample.variant]["latency_samples"] += 1
            for event in sample.exceeded:
                self._count(event, sample)
        for (shares, variant), num in self._pending_units.items():
            self.sample_ratio.update(dict(zip(self.variants, shares, strict=True)), variant, num)
        for (shares, variant, event), num in self._pending_events.items():
            self._take_event(dict(zip(self.variants, shares, strict=True)), variant, event, num)
        self._pending_units.clear()
        self._pending_events.clear()
        self.sample_ratio.look()
        for processes in self.processes.values():
            for process in processes.values():
                process.look()

    def _take_event(self, shares: Mapping[str, float], variant: str, event: str, num: int) -> None:
        arms = self.processes if variant == self.control else (variant,)
        for arm in arms:
            pair = shares[arm] + shares[self.control]
            share = shares[arm] / pair if pair > 0.0 else 0.0
            is_control = variant == self.control
            self.processes[arm][event].update(share, num_candidate=num * (not is_control), num_control=num * is_control)

    def harms(self, arm: str) -> dict[str, dict[str, Any]]:
        """Guardrails that `arm` has broken, with their numbers; empty while all hold."""
        alpha = self.config.guardrail_alpha
        broken = {name: p.summary() for name, p in self.processes[arm].items() if p.reached(alpha)}
        return broken | self.outcomes.harms(arm, alpha)

    @property
    def is_mismatched(self) -> bool:
        """Whether the traffic is not split as asked, beyond doubt."""
        return self.sample_ratio.reached(self.config.srm_alpha)

    def summary(self, arm: str) -> dict[str, Any]:
        """Everything known of one arm, as JSON."""
        errors = [(self.totals[v]["model_error"], self._num_answered(v)) for v in (arm, self.control)]
        return {
            "alpha_per_guardrail": self.config.guardrail_alpha,
            "guardrails": {name: process.summary() for name, process in self.processes[arm].items()},
            "metrics": self.outcomes.summary(arm),
            "sample_ratio": self.sample_ratio.summary(),
            "latency_thresholds": self.quantiles.summary() if self.quantiles else {},
            "totals": {name: dict(self.totals[name]) for name in (arm, self.control)},
            "display_only": {"error_rate": error_rate_reading(*errors).to_dict()},
        }

    def _num_answered(self, variant: str) -> int:
        return self.totals[variant]["ok"] + self.totals[variant]["model_error"]

    def changed_chunks(self) -> Iterator[Chunk]:
        for purpose, seen in self._seen.items():
            for index, chunk in seen.changed_chunks():
                yield purpose, index, chunk

    def state_dict(self) -> dict[str, Any]:
        """Without what is still pending: `flush` first."""
        return {
            "quantiles": self.quantiles.state_dict() if self.quantiles else None,
            "sample_ratio": self.sample_ratio.state_dict(),
            "processes": {
                arm: {name: process.state_dict() for name, process in processes.items()}
                for arm, processes in self.processes.items()
            },
            "outcomes": self.outcomes.state_dict(),
            "totals": {name: dict(counter) for name, counter in self.totals.items()},
        }

    def load_state_dict(self, state: dict[str, Any], chunks: Sequence[Chunk]) -> None:
        if self.quantiles and state["quantiles"]:
            self.quantiles.load_state_dict(state["quantiles"])
        self.sample_ratio.load_state_dict(state["sample_ratio"])
        for arm, processes in self.processes.items():
            for name, process in processes.items():
                process.load_state_dict(state["processes"][arm][name])
        self.outcomes.load_state_dict(state["outcomes"])
        self.totals = {name: Counter(state["totals"][name]) for name in self.variants}
        for purpose, index, chunk in chunks:
            self._seen[purpose].load_chunk(index, chunk)
