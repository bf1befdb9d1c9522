"""What is deployed: endpoints, their variants and their slots. The supervisor's truth, told to every new worker."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.core.errors import ConfigError, LabError, UnsupportedError
from lab.core.progress import say
from lab.serve.config import EndpointConfig, VariantConfig
from lab.serve.fleet import Fleet, WorkerHandle
from lab.serve.slab import NUM_SLOTS, UNROUTED, Slab


@dataclass
class Deployed:
    """One variant in its slot, which is UNROUTED until it is loaded; `report` is what the workers said of it."""

    config: VariantConfig
    folder: Path
    slot: int = UNROUTED
    report: dict[str, Any] = field(default_factory=dict)
    identity: dict[str, str] = field(default_factory=dict)
    load_s: float = 0.0
    steps: tuple[Path, ...] = ()
    """Folders of a pipeline's models, of which `folder` is the first; none where there is one model."""
    registered: str = ""
    """"models:/NAME/VERSION" of a model that came from the registry."""

    @property
    def where(self) -> str:
        """For people: the folder, or those of all steps."""
        return " > ".join(map(str, self.steps or (self.folder,)))


@dataclass
class DeployedEndpoint:
    """One endpoint that is in service."""

    name: str
    salt: str
    unit_header: str
    variants: list[Deployed]
    shadows: list[Deployed]

    def all(self) -> list[Deployed]:
        return [*self.variants, *self.shadows]

    def names(self) -> list[str]:
        return [variant.config.name for variant in self.variants]


class Topology:
    """All endpoints. Changes hold the fleet's lock; weights are changed in the slab alone."""

    def __init__(self, config: EndpointConfig, slab: Slab, key: bytes) -> None:
        self.config, self.slab, self._key = config, slab, key
        self.port = config.port
        self.endpoints: dict[str, DeployedEndpoint] = {}
        self.shares: dict[int, dict[str, float]] = {}
        """Shares of every endpoint's variants by the version of the weights, for observations made under it."""
        self._loaded: dict[int, Deployed] = {}
        self._next = UNROUTED

    def slot(self, slot: int) -> tuple[str, Deployed] | None:
        """(endpoint, variant) of a slot in service."""
        for endpoint in self.endpoints.values():
            for variant in endpoint.all():
                if variant.slot == slot:
                    return endpoint.name, variant
        return None

    async def boot(self, worker: WorkerHandle) -> None:
        """Bring a new worker to where the others are. Raises LabError."""
        ask = worker.channel.request
        await ask("start", config=self.config.model_dump(mode="json"), key=self._key.hex())
        for variant in self._loaded.values():
            variant.report = await ask("load", 240.0, **_load(variant))
        for endpoint in self.endpoints.values():
            await ask("activate", **_activate(endpoint))
        await ask("listen", host=self.config.host, port=self.port)

    async def deploy(self, fleet: Fleet, endpoint: DeployedEndpoint) -> None:
        """Load every variant beside what is served, switch between two requests, then drain and unload the old ones.

        Raises:
            LabError: one cannot be loaded or does not pass the gate; what was served goes on.
        """
        async with fleet.lock:
            new = [variant for variant in endpoint.all() if variant.slot not in self._loaded]
            try:
                for variant in new:
                    await self._load(fleet, variant)
            except (LabError, TimeoutError):
                await self._unload(fleet, [variant for variant in new if variant.slot in self._loaded])
                raise
            old = self.endpoints.get(endpoint.name)
            self.endpoints[endpoint.name] = endpoint
            self.set_weights(endpoint, {v.config.name: v.config.weight for v in endpoint.all()})
            await fleet.broadcast("activate", **_activate(endpoint))
            if old is not None:
                kept = {variant.slot for variant in endpoint.all()}
                await self._unload(fleet, [variant for variant in old.all() if variant.slot not in kept])

    async def remove(self, fleet: Fleet, name: str) -> None:
        """Take an endpoint out of service and unload its variants."""
        async with fleet.lock:
            endpoint = self.endpoints.pop(name)
            await fleet.broadcast("remove", endpoint=name)
            await self._unload(fleet, endpoint.all())

    async def _load(self, fleet: Fleet, variant: Deployed) -> None:
        variant.slot = self._free_slot()
        self._loaded[variant.slot] = variant
        began = time.monotonic()
        reports = await fleet.broadcast("load", **_load(variant))
        variant.report = reports[0] if reports else {}
        variant.load_s = time.monotonic() - began
        golden = "its golden sample agrees" if variant.report.get("golden") else "no golden sample to compare with"
        say(f"loaded {variant.config.name} ({variant.where}) in {variant.load_s:.1f} s; {golden}")

    async def _unload(self, fleet: Fleet, variants: Sequence[Deployed]) -> None:
        timeout_s = self.config.limits.drain_s
        for variant in variants:
            self._loaded.pop(variant.slot, None)
            await fleet.broadcast("unload", timeout_s + 15.0, slot=variant.slot, drain_s=timeout_s)

    def _free_slot(self) -> int:
        """The slot unused for longest, so that counters of one that has just gone can still be read."""
        for step in range(1, NUM_SLOTS):
            slot = 1 + (self._next + step - 1) % (NUM_SLOTS - 1)
            if slot not in self._loaded:
                self._next = slot
                self.slab.clear_slot(slot)
                return slot
        raise UnsupportedError("too many variants are loaded", expected=f"{NUM_SLOTS - 1} at most")

    def set_weights(self, endpoint: DeployedEndpoint, weights: Mapping[str, float]) -> None:
        """Change weights, all at once, without telling anyone: every worker sees it with its next request.

        Raises:
            ConfigError: a variant that is not there, or a weight that is none.
        """
        by_name = {variant.config.name: variant for variant in endpoint.all()}
        for name, weight in weights.items():
            if name not in by_name:
                raise ConfigError(f"there is no variant '{name}'", expected=", ".join(by_name))
            check_weight(name, weight)
        self.slab.set_weights({by_name[name].slot: float(weight) for name, weight in weights.items()})
        self._remember_shares()

    def _remember_shares(self) -> None:
        shares: dict[str, float] = {}
        for endpoint in self.endpoints.values():
            shares |= {f"{endpoint.name}/{name}": share for name, share in self.shares_of(endpoint).items()}
        self.shares[self.slab.version] = shares
        for version in list(self.shares)[:-1000]:
            del self.shares[version]

    def weights_of(self, endpoint: DeployedEndpoint) -> dict[str, float]:
        """The weights in force, shadows too."""
        found = self.slab.weights()
        assert found is not None  # the supervisor is the only writer
        return {variant.config.name: float(found[variant.slot]) for variant in endpoint.all()}

    def shares_of(self, endpoint: DeployedEndpoint) -> dict[str, float]:
        """Each production variant's share of the traffic."""
        weights = self.weights_of(endpoint)
        total = sum(weights[name] for name in endpoint.names())
        return {name: weights[name] / total if total else 0.0 for name in endpoint.names()}


def check_weight(name: str, weight: object) -> None:
    """Raises ConfigError when a variant's weight is none."""
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < 1e9:
        raise ConfigError(f"the weight of '{name}' is unusable", got=weight, expected="a number, 0 or more")


def _load(variant: Deployed) -> dict[str, Any]:
    dumped = variant.config.model_dump(mode="json")
    return {"slot": variant.slot, "variant": dumped, "folder": str(variant.folder),
            "steps": [str(step) for step in variant.steps]}  # fmt: skip


def _activate(endpoint: DeployedEndpoint) -> dict[str, Any]:
    return {
        "endpoint": endpoint.name, "salt": endpoint.salt, "unit_header": endpoint.unit_header,
        "variants": [variant.slot for variant in endpoint.variants],
        "shadows": [shadow.slot for shadow in endpoint.shadows],
    }  # fmt: skip
