"""The guards of all endpoints: fed from the workers' rings, their decisions carried out as weights."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lab.artifacts.endpoint_log import DECISIONS_NAME
from lab.artifacts.files import sha256_json
from lab.core.errors import ConfigError, DataError, LabError
from lab.core.progress import say, warn
from lab.serve.guard.config import GuardConfig, RolloutConfig
from lab.serve.guard.events import Decision, Feedback, Observation
from lab.serve.guard.guard import Guard
from lab.serve.guard.log import DecisionLog
from lab.serve.ids import Origin
from lab.serve.slab import STATUSES
from lab.serve.topology import DeployedEndpoint, Topology

_MAX_IDS = 100_000


class Guarding:
    """One guard per endpoint that has one; its decisions change the weights at once."""

    def __init__(self, config: GuardConfig | None, topology: Topology, state_dir: Path) -> None:
        self._config, self._topology, self._state_dir = config, topology, state_dir
        self.guards: dict[str, Guard] = {}
        self.decisions: list[dict[str, Any]] = []
        self._shifts: dict[str, asyncio.Future[bool]] = {}
        self._given_ids: OrderedDict[str, str] = OrderedDict()
        self.num_feedback: dict[tuple[str, str], int] = {}
        self.outcomes: dict[tuple[str, str, str], tuple[int, float]] = {}
        """(endpoint, variant, metric) -> number and sum of the outcomes that are evidence."""

    def watch(self, endpoint: DeployedEndpoint, config: GuardConfig | None = None) -> Guard | None:
        """Open the guard of an endpoint as it is deployed now; one that goes on from its log sets its weights.

        Raises:
            LabError: its control is no variant, or its log cannot be opened.
        """
        config = config or self._config
        self.guards.pop(endpoint.name, None)
        weights = {name: self._topology.weights_of(endpoint)[name] for name in endpoint.names()}
        if config is None or not weights:
            return None
        identity = sha256_json([variant.identity for variant in endpoint.variants])
        log = DecisionLog(self._state_dir / endpoint.name / DECISIONS_NAME)
        if config.control not in weights:  # another endpoint's, or one that has been replaced
            config = config.model_copy(update={"control": None})
        guard = Guard(config, weights, time.time, log, identity)
        self.guards[endpoint.name] = guard
        if guard.resumed and guard.weights != weights:
            say(f"the guard of {endpoint.name} goes on where it stood: weights {guard.weights}")
            self._topology.set_weights(endpoint, guard.weights)
        return guard

    def forget(self, endpoint: str) -> None:
        self.guards.pop(endpoint, None)

    def observe(self, records: np.ndarray) -> None:
        """Records of a worker's ring (`slab.RECORD_TYPE`)."""
        if not self.guards or not len(records):
            return
        for record in records.tolist():
            time_s, latency_ms, unit_hash, version, slot, status, pinned, sticky, _ = record
            found = self._topology.slot(slot)
            if found is None or found[0] not in self.guards:
                continue
            endpoint, variant = found[0], found[1].config.name
            guard, shares = self.guards[endpoint], self._shares(endpoint, version)
            if variant not in guard.weights or variant not in shares:
                continue
            guard.observe(Observation(
                time_s, variant, unit_hash, STATUSES[status], latency_ms, shares, bool(pinned), bool(sticky)  # type: ignore[arg-type]
            ))  # fmt: skip

    def _shares(self, endpoint: str, version: int) -> Mapping[str, float]:
        known = self._topology.shares.get(version, {})
        prefix = endpoint + "/"
        return {name.removeprefix(prefix): share for name, share in known.items() if name.startswith(prefix)}

    def tick(self) -> None:
        """Let every guard judge, and do what it decides."""
        for name, guard in list(self.guards.items()):
            try:
                decisions = guard.tick(time.time())
            except LabError as error:
                warn(f"the guard of {name} cannot judge: {error}")
                continue
            for decision in decisions:
                self.carry_out(name, decision)
            self._end_shift(name, guard)

    def _end_shift(self, name: str, guard: Guard) -> None:
        if name in self._shifts and guard.rollout is not None and not guard.rollout.is_running:
            self._shifts.pop(name).set_result(guard.rollout.phase == "promoted")

    async def shift(self, endpoint: str, candidate: str, plan: RolloutConfig) -> bool:
        """Roll a variant out and wait for the end; whether it was promoted. Raises ConfigError, DataError."""
        ended = self._shifts[endpoint] = asyncio.get_running_loop().create_future()
        try:
            self.start_rollout(endpoint, candidate, plan)
        except LabError:
            del self._shifts[endpoint]
            raise
        promoted: bool = await ended
        return promoted

    def carry_out(self, endpoint: str, decision: Decision) -> None:
        """Set a decision's weights and tell of it."""
        self.decisions.append({"endpoint": endpoint, **decision.to_dict()})
        del self.decisions[:-200]
        say(f"guard of {endpoint}: {decision.kind}: {decision.reason}")
        if decision.kind in ("set_weights", "rollback", "promote"):
            self._topology.set_weights(self._topology.endpoints[endpoint], decision.weights)

    def person_set_weights(self, endpoint: str, weights: Mapping[str, float]) -> None:
        """The guard must know of weights that it did not set. Raises ConfigError when it cannot live with them."""
        if endpoint in self._shifts:
            raise ConfigError(f"endpoint {endpoint} is being updated: its weights follow the deployment")
        guard = self.guards.get(endpoint)
        if guard is not None:
            decision = guard.weights_changed({**guard.weights, **weights}, time.time())
            self.decisions.append({"endpoint": endpoint, **decision.to_dict()})

    def start_rollout(self, endpoint: str, candidate: str, plan: RolloutConfig | None = None) -> Decision:
        """Begin to shift traffic to a variant. Raises ConfigError, DataError."""
        guard = self.guards.get(endpoint)
        if guard is None:
            raise DataError(f"endpoint {endpoint} has no guard", hint="a `guard:` section in the configuration")
        decision = guard.start_rollout(candidate, plan, time.time())
        self.carry_out(endpoint, decision)
        return decision

    def crashed(self, lost: Mapping[int, int]) -> None:
        """A worker died with requests of these slots in hand."""
        for slot in lost:
            found = self._topology.slot(slot)
            if found is not None and found[0] in self.guards:
                name = found[1].config.name
                if name in self.guards[found[0]].weights:
                    self.guards[found[0]].worker_crashed(name, time.time())

    def keep_ids(self, pairs: list[tuple[str, str]]) -> None:
        """Ids that clients chose for requests, each with ours."""
        for theirs, ours in pairs:
            self._given_ids[theirs] = ours
        while len(self._given_ids) > _MAX_IDS:
            self._given_ids.popitem(last=False)

    def ours(self, inference_id: str) -> str:
        """Our id of a request, given either."""
        return self._given_ids.get(inference_id, inference_id)

    def feedback(self, endpoint: str, origin: Origin, metric: str, value: float) -> bool:
        """Take an outcome; False where there is no guard to use it. Raises DataError for an unknown metric."""
        guard = self.guards.get(endpoint)
        if guard is None or origin.variant not in guard.weights:
            return False
        if not origin.pinned:
            guard.feedback(Feedback(time.time(), origin.variant, metric, value, origin.unit_hash))
            key = (endpoint, origin.variant, metric)
            num, total = self.outcomes.get(key, (0, 0.0))
            self.outcomes[key] = (num + 1, total + value)
        self.num_feedback[endpoint, metric] = self.num_feedback.get((endpoint, metric), 0) + 1
        return True
