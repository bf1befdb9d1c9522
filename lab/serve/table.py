"""What a worker serves: endpoints by name, each with its variants and the router that follows the shared weights."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lab.core.errors import LabError
from lab.serve.engine.variant import Variant
from lab.serve.protocols.errors import NotFoundError
from lab.serve.routing import Assignment, Router
from lab.serve.slab import Slab


@dataclass
class LiveEndpoint:
    """One endpoint of one worker; a new fleet of variants makes a new one."""

    name: str
    salt: str
    unit_header: str
    variants: tuple[Variant, ...]
    shadows: tuple[Variant, ...]
    slab: Slab
    capture: Mapping[str, Any] | None = None
    _router: Router = field(init=False)
    _version: int = field(init=False, default=-1)
    _shadow_shares: tuple[float, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        self._router = Router(self.salt, [v.config.name for v in self.variants], [0.0] * len(self.variants))

    def assign(self, unit: str | None, target: str | None) -> tuple[Assignment, int]:
        """The assignment of one request, and the version of the weights it was made with.

        Raises:
            DataError, NoTrafficError: as `Router.route`.
        """
        if self.slab.version != self._version:
            self._refresh()
        return self._router.route(unit, target), self._version

    def _refresh(self) -> None:
        version, weights = self.slab.version, self.slab.weights()
        if weights is None:  # caught in the middle of a change: the next request sees it whole
            return
        chosen = [float(weights[variant.meter.slot]) for variant in self.variants]
        self._router = Router(self.salt, self._router.names, chosen)
        self._shadow_shares = tuple(float(weights[shadow.meter.slot]) for shadow in self.shadows)
        self._version = version

    def sampled_shadows(self) -> list[Variant]:
        """The shadows that get a copy of this request."""
        return [
            s for s, share in zip(self.shadows, self._shadow_shares, strict=False)
            if share >= 1 or random.random() < share
        ]  # fmt: skip

    def fallback(self, assigned: Variant) -> Variant | None:
        """Another variant that takes traffic and is ready, where the assigned one is not."""
        ready = [v for v, share in zip(self.variants, self._router.shares, strict=True) if share > 0 and v.is_ready]
        return next((variant for variant in ready if variant is not assigned), None)

    @property
    def is_ready(self) -> bool:
        return any(variant.is_ready for variant in self.variants)

    def named(self, variant: str | None) -> Variant:
        """A variant by name, the first without one. Raises NotFoundError."""
        if variant is None and self.variants:
            return self.variants[0]
        found = next((v for v in self.variants if v.config.name == variant), None)
        if found is None:
            raise NotFoundError(f"endpoint {self.name} has no variant '{variant}'")
        return found


class Endpoints:
    """Endpoints by name. `default` is the one that `/invocations` means: the configuration's, else the only one."""

    def __init__(self, default: str) -> None:
        self.default = default
        self.live: dict[str, LiveEndpoint] = {}
        self.variants: dict[int, Variant] = {}
        self.draining = False
        self._closing: set[asyncio.Task[None]] = set()

    def __getitem__(self, name: str) -> LiveEndpoint:
        """Raises NotFoundError."""
        found = self.live.get(name)
        if found is None:
            raise NotFoundError(f"there is no endpoint '{name}'", expected=", ".join(self.live) or "none is in service")
        return found

    def the_default(self) -> LiveEndpoint:
        """Raises NotFoundError."""
        if self.default not in self.live and len(self.live) == 1:
            return next(iter(self.live.values()))
        return self[self.default]

    async def load(self, slot: int, variant: Variant) -> dict[str, Any]:
        """Open a variant beside what is served; traffic comes with `activate`. Raises LabError."""
        await variant.load()
        self.variants[slot] = variant
        assert variant.model is not None
        assert variant.passed is not None
        return {
            "latency_ms": variant.passed.latency_ms, "golden": variant.passed.golden,
            "engine": variant.model.runner.name, "task": variant.model.manifest.task,
        }  # fmt: skip

    def activate(self, endpoint: LiveEndpoint) -> None:
        """Put a new set of variants in the place of the old one, between two requests."""
        self.live[endpoint.name] = endpoint

    def remove(self, name: str) -> None:
        """The endpoint answers 404 from here on."""
        self.live.pop(name, None)

    async def unload(self, slot: int, timeout_s: float) -> None:
        """Let a variant finish what it has, then close it."""
        variant = self.variants.pop(slot, None)
        if variant is not None:
            await variant.drain(timeout_s)
            await variant.close()

    async def drain(self, timeout_s: float) -> None:
        """Let every variant finish what it has. New requests are still taken until the listeners are closed."""
        await asyncio.gather(*(variant.drain(timeout_s) for variant in self.variants.values()))


def describe_error(error: LabError) -> str:
    """One line for logs and `FailureReason`."""
    return " ".join(part.strip() for part in error.message().splitlines())
