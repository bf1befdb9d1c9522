"""What is done to endpoints, by the control plane or a person: deploy, shift, reload, remove, set weights."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.core.errors import ConfigError, DataError
from lab.core.progress import warn
from lab.serve.config import EndpointConfig, RoutingConfig
from lab.serve.control_plane import Variants
from lab.serve.fleet import Fleet
from lab.serve.guard.config import GuardConfig, RolloutConfig
from lab.serve.guarding import Guarding
from lab.serve.models import folder_of_url, prepared
from lab.serve.topology import Deployed, DeployedEndpoint, Topology, check_weight


class Deployments:
    """The supervisor's hands.

    Args:
        store: where private copies of signed models go.
    """

    def __init__(
        self, config: EndpointConfig, topology: Topology, fleet: Fleet, guarding: Guarding, store: Path
    ) -> None:
        self._config, self._topology, self._fleet = config, topology, fleet
        self._guarding, self._store = guarding, store

    def endpoint(self, name: str, variants: list[Deployed]) -> DeployedEndpoint:
        routing: RoutingConfig = self._config.routing
        production = [variant for variant in variants if not variant.config.shadow]
        shadows = [variant for variant in variants if variant.config.shadow]
        return DeployedEndpoint(name, routing.salt, routing.unit_header, production, shadows)

    async def deploy(self, name: str, variants: Variants) -> None:
        """Put an endpoint in service, or exchange its variants at once. Raises LabError."""
        endpoint = self.endpoint(name, self._prepared(variants))
        await self._topology.deploy(self._fleet, endpoint)
        self._watch(endpoint)

    def _prepared(self, variants: Variants) -> list[Deployed]:
        return [prepared(config, folder, self._config.security, self._store) for config, folder in variants]

    async def shift(self, name: str, variants: Variants, plan: RolloutConfig) -> str:
        """Serve the new variant beside the old, shift the traffic under the guard, then unload the one that lost.

        Returns why it was rolled back, or nothing. Raises LabError.
        """
        old, new = self.served(name).all(), self._prepared(variants)
        names = [variant.config.name for variant in (*old, *new)]
        if len(old) != 1 or len(new) != 1 or names[0] == names[1]:
            raise ConfigError(
                "a step-wise deployment takes one variant to one variant of another name", got=", ".join(names),
                hint="deploy all at once, or shift the weights of an endpoint that has both",
            )  # fmt: skip
        await self._serve_both(name, old[0], new[0])
        promoted = await self._guarding.shift(name, names[1], plan)
        await asyncio.sleep(plan.termination_wait_s if promoted else 0.0)
        promoted = promoted and self.weights(name)[names[1]] > 0  # the breaker may have gone back meanwhile
        await self._keep(name, new[0] if promoted else old[0])
        reasons = [str(d["reason"]) for d in self._guarding.decisions if d["endpoint"] == name]
        return "" if promoted else f"rolled back: {reasons[-1] if reasons else 'no reason given'}"

    async def _serve_both(self, name: str, old: Deployed, new: Deployed) -> None:
        old.config = old.config.model_copy(update={"weight": 1.0})
        new.config = new.config.model_copy(update={"weight": 0.0})
        both = self.endpoint(name, [old, new])
        await self._topology.deploy(self._fleet, both)
        config = self._config.guard or GuardConfig()
        self._guarding.watch(both, config.model_copy(update={"control": old.config.name}))

    async def _keep(self, name: str, variant: Deployed) -> None:
        variant.config = variant.config.model_copy(update={"weight": 1.0})
        alone = self.endpoint(name, [variant])
        await self._topology.deploy(self._fleet, alone)
        self._watch(alone)

    def _watch(self, endpoint: DeployedEndpoint) -> None:
        try:
            self._guarding.watch(endpoint)
        except ConfigError as error:  # of another endpoint's names: serve without, and say so
            warn(f"endpoint {endpoint.name} is served without a guard: {error}")

    async def remove(self, name: str) -> None:
        """Take an endpoint out of service."""
        self._guarding.forget(name)
        await self._topology.remove(self._fleet, name)

    def weights(self, name: str) -> Mapping[str, float]:
        """The weights in force; none for an endpoint that is not served."""
        endpoint = self._topology.endpoints.get(name)
        return self._topology.weights_of(endpoint) if endpoint is not None else {}

    def set_weights(self, name: str, weights: Mapping[str, float]) -> None:
        """A person changes weights, shadows' too. Raises ConfigError."""
        endpoint = self.served(name)
        merged = self._topology.weights_of(endpoint) | dict(weights)
        if set(merged) != set(self._topology.weights_of(endpoint)):
            raise ConfigError("there is no such variant", got=sorted(weights), expected=", ".join(endpoint.names()))
        for variant, weight in weights.items():
            check_weight(variant, weight)
        production = {variant: merged[variant] for variant in endpoint.names()}
        if name in self._guarding.guards and sum(production.values()) > 0:
            self._guarding.person_set_weights(name, production)
        self._topology.set_weights(endpoint, weights)

    def served(self, name: str) -> DeployedEndpoint:
        endpoint = self._topology.endpoints.get(name)
        if endpoint is None:
            raise DataError(f"there is no endpoint '{name}'", expected=", ".join(self._topology.endpoints) or "none")
        return endpoint

    async def reload(self, name: str, variant: Any, model: Any = None) -> dict[str, Any]:
        """Put another model behind one variant: loaded, warmed and compared beside it, then exchanged.

        Args:
            model: below `security.model_root`; None takes the files of the old one again.

        Raises:
            DataError: there is no such endpoint or variant. LabError: the new model does not pass.
        """
        endpoint = self.served(name)
        old = next((one for one in endpoint.all() if one.config.name == variant), None)
        if old is None:
            raise DataError("there is no such variant", got=variant, expected=", ".join(endpoint.names()))
        if (old.steps or old.config.remote) and model is not None:
            raise ConfigError(
                "steps of a pipeline and models on other servers are not exchanged one by one",
                got=str(model)[:200],
                hint="update the endpoint",
            )
        folder = old.folder if model is None else folder_of_url(str(model), self._config.security)
        weight = self._topology.weights_of(endpoint)[old.config.name]
        changed = {"weight": weight} if old.steps else {"model": str(folder), "weight": weight}
        config = old.config.model_copy(update=changed)
        new = prepared(config, old.steps or folder, self._config.security, self._store)
        weights = self._topology.weights_of(endpoint)
        others = [one if one is not old else new for one in endpoint.all()]
        for one in others:
            one.config = one.config.model_copy(update={"weight": weights[one.config.name]})
        replaced = self.endpoint(endpoint.name, others)
        await self._topology.deploy(self._fleet, replaced)
        self._watch(replaced)
        return {"variant": new.config.name, "model": new.where, **new.report, "load_s": new.load_s}
