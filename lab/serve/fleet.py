"""Worker processes: started, watched, restarted, drained; every worker is told the same things in the same order."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lab.core.errors import LabError
from lab.core.progress import say, warn
from lab.serve.channel import Channel, ChannelClosedError, Handler
from lab.serve.slab import COLUMNS, Slab

_HEALTHY_S = 10.0
_MAX_BACKOFF_S = 30.0
_LOAD_TIMEOUT_S = 240.0
"""SageMaker gives a container four minutes to start (EP-2)."""

Boot = Callable[["WorkerHandle"], Awaitable[None]]
"""Tells a new worker all it must know."""
Crashed = Callable[[Mapping[int, int]], None]
"""Is told the slots that had requests in a dead worker's hands, and how many."""


@dataclass
class WorkerHandle:
    """The supervisor's view of one worker."""

    index: int
    process: subprocess.Popen[bytes]
    channel: Channel
    started_s: float = field(default_factory=time.monotonic)
    ready: bool = False
    leaving: bool = False


class Fleet:
    """All workers. `boot` and every broadcast hold `lock`, so that a new worker misses nothing.

    Args:
        handlers: answers to the workers' requests.
        boot: brings a new worker to the state of the others.
    """

    def __init__(self, slab: Slab, handlers: Mapping[str, Handler], boot: Boot, crashed: Crashed) -> None:
        self.slab, self._handlers, self._boot, self._crashed = slab, handlers, boot, crashed
        self.lock = asyncio.Lock()
        self.workers: dict[int, WorkerHandle] = {}
        self.num_restarts = 0
        self.num_lost = 0
        self._num_quick_deaths = 0
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, num_workers: int) -> None:
        """Start workers and wait until they serve. Raises LabError where one cannot."""
        for index in range(num_workers):
            await self.add(index)

    async def add(self, index: int) -> None:
        """Start one worker. Raises LabError where it cannot serve; it is ended then."""
        async with self.lock:
            worker = await self._spawn(index)
            self.workers[index] = worker
            try:
                await self._boot(worker)
            except (LabError, TimeoutError):
                worker.leaving = True
                self.workers.pop(index, None)
                worker.process.kill()
                raise
            worker.ready = True
        task = asyncio.get_running_loop().create_task(self._watch(worker))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _spawn(self, index: int) -> WorkerHandle:
        ours, theirs = socket.socketpair()
        arguments = [str(theirs.fileno()), str(self.slab.descriptor), str(index), str(self.slab.layout.num_workers)]
        process = subprocess.Popen(
            [sys.executable, "-m", "lab.serve.worker", *arguments],
            pass_fds=(theirs.fileno(), self.slab.descriptor), stdin=subprocess.DEVNULL,
        )  # fmt: skip
        theirs.close()
        channel = Channel(self._handlers)
        await channel.open(ours)
        return WorkerHandle(index, process, channel)

    async def broadcast(self, name: str, timeout_s: float = _LOAD_TIMEOUT_S, **arguments: Any) -> list[Any]:
        """Ask every worker and wait for all; a worker that dies meanwhile is left out, since its successor boots anew.

        Raises:
            RemoteError: of the first that failed.
        """
        workers = [worker for worker in self.workers.values() if not worker.leaving]
        asked = [worker.channel.request(name, timeout_s, **arguments) for worker in workers]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, ChannelClosedError):
                raise answer
        return [answer for answer in answers if not isinstance(answer, BaseException)]

    async def remove(self, index: int) -> None:
        """Drain one worker and let it end."""
        worker = self.workers.pop(index)
        worker.leaving = True
        await self._leave(worker)

    async def stop(self, timeout_s: float) -> None:
        """Drain all workers; those that have not ended in time are killed."""
        self._stopping = True
        workers = list(self.workers.values())
        for worker in workers:
            worker.leaving = True
        await asyncio.gather(*(self._leave(worker, timeout_s) for worker in workers))

    async def _leave(self, worker: WorkerHandle, timeout_s: float = 60.0) -> None:
        with contextlib.suppress(LabError, TimeoutError):
            await worker.channel.request("drain", 5.0)
        try:
            await asyncio.wait_for(worker.channel.closed.wait(), timeout_s)
        except TimeoutError:
            warn(f"worker {worker.index} did not drain within {timeout_s:g} s and is killed")
            worker.process.kill()
        await asyncio.get_running_loop().run_in_executor(None, worker.process.wait)
        self.slab.clear_gauges(worker.index)

    async def _watch(self, worker: WorkerHandle) -> None:
        """Restart a worker that ends without having been told to."""
        await worker.channel.closed.wait()
        if worker.leaving or self._stopping:
            return
        # A channel can only close with its process: but a process that hangs in its end must not keep the port.
        worker.process.kill()
        code = await asyncio.get_running_loop().run_in_executor(None, worker.process.wait)
        self._mourn(worker, code)
        lived_s = time.monotonic() - worker.started_s
        self._num_quick_deaths = self._num_quick_deaths + 1 if lived_s < _HEALTHY_S else 0
        delay_s = min(_MAX_BACKOFF_S, 2.0 ** (self._num_quick_deaths - 2)) if self._num_quick_deaths > 2 else 0.0
        await asyncio.sleep(delay_s)
        await self._replace(worker.index)

    def _mourn(self, worker: WorkerHandle, code: int) -> None:
        row = self.slab.counters[worker.index]
        held = row[:, COLUMNS["in_flight"]] + row[:, COLUMNS["queue_depth"]]
        lost = {int(slot): int(held[slot]) for slot in held.nonzero()[0]}
        self.num_restarts += 1
        self.num_lost += sum(lost.values())
        warn(
            f"worker {worker.index} (pid {worker.process.pid}) ended with {code}, {sum(lost.values())} requests in hand"
        )
        self.slab.clear_gauges(worker.index)
        self._crashed(lost)

    async def _replace(self, index: int) -> None:
        while not self._stopping:
            began = time.monotonic()
            try:
                await self.add(index)
            except (LabError, TimeoutError, OSError) as error:
                warn(f"worker {index} cannot be restarted: {error}")
                await asyncio.sleep(_MAX_BACKOFF_S / 10)
                continue
            say(f"worker {index} serves again after {time.monotonic() - began:.2f} s")
            return

    def pids(self) -> dict[int, int]:
        """Process ids by worker."""
        return {index: worker.process.pid for index, worker in sorted(self.workers.items())}
