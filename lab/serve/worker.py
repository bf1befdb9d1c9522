"""A worker process: one event loop, one listening socket, its own instances of every model.

Started by the supervisor as `python -m lab.serve.worker CHANNEL SLAB INDEX WORKERS` with two open descriptors; what to
serve comes over the channel.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import uvloop

from lab.core.progress import warn
from lab.runtime.tvm_runner import use_runtime_library_only
from lab.serve.app import App
from lab.serve.channel import Channel
from lab.serve.config import VariantConfig, of_dict
from lab.serve.engine.variant import Variant
from lab.serve.inference import Inference
from lab.serve.routes import error_forms, routes
from lab.serve.server import WorkerServer, make_server, moved, reuse_port_socket
from lab.serve.slab import Meter, Slab
from lab.serve.table import Endpoints, LiveEndpoint

_IDS_EVERY_S = 0.2
_LISTENER = 16_383
"""The listening socket's descriptor: above every connection's (see `server.moved`)."""
_SWITCH_INTERVAL_S = 0.0005


class Worker:
    """Handlers of the supervisor's messages, and the state they change.

    Args:
        place: the descriptor that the listening socket gets.
    """

    def __init__(self, slab: Slab, index: int, place: int) -> None:
        self.slab, self.index, self._place = slab, index, place
        self.channel = Channel({
            "start": self._start, "load": self._load, "activate": self._activate, "remove": self._remove,
            "unload": self._unload, "listen": self._listen, "drain": self._drain,
        })  # fmt: skip
        self.ended = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def _start(self, message: dict[str, Any]) -> dict[str, Any]:
        self.config = of_dict(message["config"])
        self.inference = Inference(self.config, self.slab, self.index, bytes.fromhex(message["key"]))
        self.endpoints = Endpoints(self.config.endpoint)
        table = routes(self.config, self.endpoints, self.inference, self.channel)
        self.app = App(self.config, table, error_forms(), self._count)
        self.server: WorkerServer = make_server(self.config, self.app)
        self._spawn(self._send_ids())
        return {"pid": os.getpid()}

    async def _load(self, message: dict[str, Any]) -> dict[str, Any]:
        slot = int(message["slot"])
        config = VariantConfig.model_validate(message["variant"])
        steps = [Path(step) for step in message.get("steps", ())]
        variant = Variant(config, Path(message["folder"]), Meter(self.slab, self.index, slot), steps)
        return await self.endpoints.load(slot, variant)

    async def _activate(self, message: dict[str, Any]) -> None:
        chosen = {
            side: tuple(self.endpoints.variants[slot] for slot in message[side]) for side in ("variants", "shadows")
        }
        live = LiveEndpoint(
            message["endpoint"],
            message["salt"],
            message["unit_header"],
            chosen["variants"],
            chosen["shadows"],
            self.slab,
        )
        self.endpoints.activate(live)
        # What was loaded stays: the collector need not look at it again, which keeps its pauses short.
        gc.collect()
        gc.freeze()

    async def _remove(self, message: dict[str, Any]) -> None:
        self.endpoints.remove(message["endpoint"])

    async def _unload(self, message: dict[str, Any]) -> None:
        await self.endpoints.unload(int(message["slot"]), float(message["drain_s"]))

    async def _listen(self, message: dict[str, Any]) -> None:
        bound = moved(reuse_port_socket(message["host"], int(message["port"])), self._place)
        self._spawn(self._serve(bound))
        while not self.server.started:
            await asyncio.sleep(0.005)

    async def _serve(self, bound: socket.socket) -> None:
        await self.server.serve(sockets=[bound])
        await self._leave()

    async def _drain(self, message: dict[str, Any]) -> None:
        """Finish what is here and end."""
        if self.endpoints.draining:
            return
        self.endpoints.draining = True
        if self.server.started:
            self._spawn(self.server.drain())
        else:
            self._spawn(self._leave())

    async def _leave(self) -> None:
        await self.endpoints.drain(self.config.limits.drain_s)
        self._flush_ids()
        await asyncio.get_running_loop().run_in_executor(None, self.inference.writer.close)
        self.ended.set()

    async def _send_ids(self) -> None:
        while True:
            await asyncio.sleep(_IDS_EVERY_S)
            self._flush_ids()

    def _flush_ids(self) -> None:
        """Ids that clients chose, and ours for the same requests: feedback may name either, at any worker."""
        ids = self.inference.client_ids
        if ids:
            pairs = [ids.popleft() for _ in range(len(ids))]
            self.channel.notify("ids", pairs=pairs)

    def _count(self, request: Any, protocol: str, status: int, seconds: float, reason: str) -> None:
        meter = self.inference.unrouted
        meter.request(protocol, status)
        if reason:
            meter.add(f"rejected.{reason}")
        self.inference.log(request, status, seconds, {"reason": reason} if reason else {})

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended_task)

    def _ended_task(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            warn(f"worker {self.index}: {task.exception()!r}")
            self.ended.set()


async def _run(end: socket.socket, slab: Slab, index: int, place: int) -> None:
    worker = Worker(slab, index, place)
    await worker.channel.open(end)
    waits = [asyncio.ensure_future(event.wait()) for event in (worker.ended, worker.channel.closed)]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    if not worker.ended.is_set() and hasattr(worker, "server"):  # the supervisor is gone: finish what is here, then end
        await worker._drain({})
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(worker.ended.wait(), worker.config.limits.drain_s)


def main() -> None:
    """Entry point; see the module's docstring."""
    channel, slab, index, num_workers = (int(argument) for argument in sys.argv[1:5])
    place = min(_LISTENER, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 1)
    # Signals sent to the whole group (Ctrl-C) are the supervisor's to handle: it drains the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    use_runtime_library_only()
    # Executors and the event loop share the interpreter: the default lets either keep it from the other for 5 ms.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    uvloop.run(_run(socket.socket(fileno=channel), Slab(slab, num_workers), index, place))
    sys.stderr.flush()
    os._exit(0)  # engines' destructors have nothing to do here, and their order is nobody's


if __name__ == "__main__":
    main()
