"""The supervisor: owns weights, counters, guards and the control plane; serves no request itself.

One event loop. Workers ask it over their channels; every half second it reads their rings, lets the guards judge, and
looks after the number of workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lab.core.errors import ConfigError, DataError, LabError
from lab.core.progress import say, warn
from lab.serve.autoscale import Autoscaler
from lab.serve.config import EndpointConfig
from lab.serve.control_plane import ControlPlane
from lab.serve.deployments import Deployments
from lab.serve.fleet import Fleet
from lab.serve.guarding import Guarding
from lab.serve.history import Recorder
from lab.serve.ids import read_id
from lab.serve.metrics import Fleetwide, render
from lab.serve.models import of_config
from lab.serve.server import reuse_port_socket
from lab.serve.slab import COLUMNS, Slab
from lab.serve.topology import Topology
from lab.serve.view import View

TICK_S = 0.5
_KEY_NAME = "inference-ids.key"


class Supervisor:
    """One endpoint process group.

    Args:
        resolved: folders of the models whose names are of a registry, fetched beforehand.
    """

    def __init__(self, config: EndpointConfig, resolved: Mapping[str, Path] | None = None) -> None:
        self.config, self._resolved = config, resolved or {}
        scaling = config.autoscaling
        self._max_workers = max(config.workers, scaling.max_workers if scaling.enabled else 0)
        self.slab = Slab.create(self._max_workers)
        self._state_dir = config.log.state_dir / config.endpoint
        self._key = _persistent_key(self._state_dir / _KEY_NAME)
        self.topology = Topology(config, self.slab, self._key)
        self.guarding = Guarding(config.guard, self.topology, config.log.state_dir)
        self.fleet = Fleet(self.slab, self._handlers(), self.topology.boot, self.guarding.crashed)
        self.view = View(self.slab, self.topology)
        self.recorder = Recorder(self.slab, self.topology, self.guarding, config.log.state_dir, config.tracking)
        self._scaler = Autoscaler(scaling)
        self.deployments = Deployments(config, self.topology, self.fleet, self.guarding, self._state_dir / "models")
        self.control = ControlPlane(config, self.deployments)
        self._stop = asyncio.Event()

    def _handlers(self) -> dict[str, Callable[[dict[str, Any]], Any]]:
        return {
            "control": self._on_control, "weights": self._on_weights, "feedback": self._on_feedback,
            "metrics": self._on_metrics, "state": self._on_state, "ids": self._on_ids, "rollout": self._on_rollout,
            "reload": self._on_reload,
        }  # fmt: skip

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until SIGTERM or SIGINT, then drain.

        Args:
            ready: called once requests are answered.

        Raises:
            LabError: a model cannot be loaded, or the port cannot be had.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        with self._reserved_port():
            try:
                await self._open()
                ready()
                await self._work()
            finally:
                self._collect()
                await self.fleet.stop(self.config.limits.drain_s + 4.0)
                self._collect()
                self.guarding.tick()
                self.recorder.close()

    @contextlib.contextmanager
    def _reserved_port(self) -> Any:
        """Hold the port without listening, so that it is ours before the first worker and between two."""
        try:
            held = reuse_port_socket(self.config.host, self.config.port)
        except (OSError, socket.gaierror) as error:
            raise ConfigError(
                f"cannot serve on {self.config.host}:{self.config.port}", got=error.strerror or error,
                hint="another process has the port: choose one with port=8081",
            ) from error  # fmt: skip
        with held:
            self.topology.port = held.getsockname()[1]
            yield

    async def _open(self) -> None:
        variants = of_config(self.config, self._state_dir / "models", self._resolved)
        num_workers = self.config.workers
        starting = asyncio.get_running_loop().create_task(self.fleet.start(num_workers))
        stopped = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            return
        stopped.cancel()
        await starting
        if variants:
            endpoint = self.deployments.endpoint(self.config.endpoint, variants)
            await self.topology.deploy(self.fleet, endpoint)
            self.guarding.watch(endpoint)
            self.control.adopt(self.config, {v.config.name: v.steps or (v.folder,) for v in variants})

    async def _work(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), TICK_S)
            self._collect()
            self.guarding.tick()
            self.view.tick()
            self.recorder.tick()
            await self._scale()

    def _collect(self) -> None:
        """Hand the guards what the workers saw."""
        for worker in range(self._max_workers):
            self.guarding.observe(self.slab.ring(worker).take())

    async def _scale(self) -> None:
        if not self.config.autoscaling.enabled or self.fleet.lock.locked():
            return
        held = int(self.slab.counters[:, :, [COLUMNS["in_flight"], COLUMNS["queue_depth"]]].sum())
        there = len(self.fleet.workers)
        wanted = self._scaler.wanted(time.monotonic(), held, there)
        if wanted == there:
            return
        say(f"autoscaling: {there} -> {wanted} workers ({held} requests in flight)")
        if wanted < there:
            await self.fleet.remove(max(self.fleet.workers))
            return
        for index in [i for i in range(self._max_workers) if i not in self.fleet.workers][: wanted - there]:
            try:
                await self.fleet.add(index)
            except (LabError, TimeoutError) as error:
                warn(f"worker {index} cannot be started: {error}")

    # What workers pass on.

    async def _on_control(self, message: dict[str, Any]) -> dict[str, Any]:
        status, body = self.control.call(message["operation"], message["arguments"])
        return {"status": status, "body": body}

    async def _on_weights(self, message: dict[str, Any]) -> dict[str, Any]:
        name = message["endpoint"]
        self.deployments.set_weights(name, message["weights"])
        record = self.control.endpoints.get(name)
        if record is not None:
            record.desired |= message["weights"]
        return {"weights": dict(self.deployments.weights(name))}

    async def _on_rollout(self, message: dict[str, Any]) -> dict[str, Any]:
        decision = self.guarding.start_rollout(message["endpoint"], str(message["arguments"].get("variant")))
        return decision.to_dict()

    async def _on_reload(self, message: dict[str, Any]) -> dict[str, Any]:
        given = message["arguments"]
        return await self.deployments.reload(message["endpoint"], given.get("variant"), given.get("model"))

    async def _on_feedback(self, message: dict[str, Any]) -> dict[str, Any]:
        """{"inference_id", "metric", "value"} of a client."""
        endpoint, outcome = self.deployments.served(message["endpoint"]), message["outcome"]
        metric, value = outcome.get("metric"), outcome.get("value")
        if not isinstance(metric, str) or isinstance(value, bool) or not isinstance(value, int | float):
            raise DataError(
                "the outcome is not understood", expected='{"inference_id", "metric": name, "value": number}'
            )
        if not math.isfinite(value):
            raise DataError("the value is not finite", got=value)
        origin = read_id(self._key, self.guarding.ours(str(outcome.get("inference_id"))))
        used = self.guarding.feedback(endpoint.name, origin, metric, float(value))
        return {"variant": origin.variant, "used": used}

    async def _on_ids(self, message: dict[str, Any]) -> None:
        self.guarding.keep_ids([(theirs, ours) for theirs, ours in message["pairs"]])

    async def _on_metrics(self, message: dict[str, Any]) -> str:
        fleet = Fleetwide(
            len(self.fleet.workers), self.fleet.num_restarts, self.fleet.num_lost,
            {name: guard.state() for name, guard in self.guarding.guards.items()}, self.guarding.num_feedback,
        )  # fmt: skip
        return render(self.slab, self.topology, fleet, self.config.metrics_compat)

    async def _on_state(self, message: dict[str, Any]) -> dict[str, Any]:
        guards = {name: guard.state() for name, guard in self.guarding.guards.items()}
        workers = {"pids": {str(i): pid for i, pid in self.fleet.pids().items()}, "restarts": self.fleet.num_restarts,
                   "lost_requests": self.fleet.num_lost, "supervisor": os.getpid()}  # fmt: skip
        return self.view.state(workers, guards, self.guarding.decisions)


def _persistent_key(path: Path) -> bytes:
    """The key of inference ids, kept so that outcomes still find their request after a restart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
    return path.read_bytes()
