"""A variant in one worker: a bounded queue, and executor threads that each own an instance of the model.

Batching is work-conserving: an executor that becomes free takes what waits, up to `max_batch`, and never waits itself
unless `max_delay_us` says so. Admission is decided on the event loop, at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from lab.core.errors import LabError
from lab.serve.config import VariantConfig
from lab.serve.engine.batch import run_jobs
from lab.serve.engine.gate import Passed, pass_gate
from lab.serve.engine.model import ServedModel
from lab.serve.engine.remote import PASSED, Forwarder, Health, RemoteModel, forward_jobs
from lab.serve.engine.remote import opened as opened_model
from lab.serve.engine.work import Answer, Job, Times, Work
from lab.serve.protocols.errors import DrainingError, NotReadyError, QueueFullError
from lab.serve.slab import Meter

SHADOW_NICENESS = 10


class Variant:
    """One variant of one worker. All methods belong to the event loop's thread.

    Args:
        meter: of this worker and the variant's slot.
        steps: folders of a pipeline's models.
    """

    def __init__(self, config: VariantConfig, folder: Path, meter: Meter, steps: Sequence[Path] = ()) -> None:
        self.config, self.folder, self.meter, self.steps = config, folder, meter, tuple(steps)
        self.model: ServedModel | None = None
        self.passed: Passed | None = None
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._num_pending = 0
        self._draining = False
        self._health = Health(config.remote) if config.remote is not None else None
        self._idle = asyncio.Event()
        self._idle.set()
        # What executors hold at most, beside what may wait.
        self._capacity = config.max_queue + config.executor_threads * config.max_batch

    async def load(self) -> None:
        """Open the model in every executor thread, one after the other, and pass the gate.

        Raises:
            LabError: the model cannot be opened, or does not pass.
        """
        loop = asyncio.get_running_loop()
        for number in range(self.config.executor_threads):
            opened: asyncio.Future[None] = loop.create_future()
            name = f"{self.config.name}-{number}"
            thread = threading.Thread(target=self._execute, args=(loop, opened), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()
            await opened
        self.meter.set("ready", 1)

    @property
    def is_ready(self) -> bool:
        return self.model is not None and not self._draining and (self._health is None or self._health.is_up)

    @property
    def num_pending(self) -> int:
        """Requests that wait or run."""
        return self._num_pending

    def admit(self, work: Work, arrived_s: float) -> Job:
        """Queue a request; its `future` gets the answer. `arrived_s` is on the clock of `time.perf_counter`.

        Raises:
            QueueFullError, DrainingError, NotReadyError: at once, with nothing queued.
        """
        if self._draining:
            raise DrainingError(f"variant {self.config.name} is being taken out of service")
        if self.model is None:
            raise NotReadyError(f"variant {self.config.name} is not ready")
        if self._num_pending >= self._capacity:
            raise QueueFullError(
                f"the queue of variant {self.config.name} is full", got=f"{self._num_pending} requests"
            )
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        job = Job(work, future, arrived_s, arrived_s + self.config.deadline_ms / 1e3)
        self._num_pending += 1
        self._idle.clear()
        self._queue.put(job)
        self._gauges()
        return job

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new requests and wait for those taken; False when they did not end in time."""
        self._draining = True
        self.meter.set("ready", 0)
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """End the threads after what they hold."""
        self._draining = True
        for _ in self._threads:
            self._queue.put(None)
        await asyncio.get_running_loop().run_in_executor(None, self._join)

    def _join(self) -> None:
        if self._health is not None:
            self._health.close()
        for thread in self._threads:
            thread.join(timeout=10)

    def _gauges(self) -> None:
        waiting = self._queue.qsize()
        self.meter.set("queue_depth", waiting)
        self.meter.set("in_flight", max(0, self._num_pending - waiting))

    def _finish(self, jobs: Sequence[Job], sizes: Sequence[int]) -> None:
        """Back on the event loop: hand out results, count."""
        for size in sizes:
            self.meter.add("executions")
            self.meter.add("inputs", size)
            self.meter.batch(size)
        for job in jobs:
            self._num_pending -= 1
            if job.future.done():
                continue
            if isinstance(job.result, Answer):
                job.future.set_result(job.result)
            else:
                job.future.set_exception(job.result or LabError("the request was forgotten"))
        if not self._num_pending:
            self._idle.set()
        self._gauges()

    # What follows runs in an executor thread.

    def _execute(self, loop: asyncio.AbstractEventLoop, opened: asyncio.Future[None]) -> None:
        if self.config.shadow:
            # Threads the engine starts from here inherit it: shadows get the processor last.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), SHADOW_NICENESS)
        try:
            model = opened_model(self.config, self.folder, self.steps, self._health)
            passed = pass_gate(model) if self._health is None else PASSED
        except Exception as error:  # noqa: BLE001  goes to whoever asked for the variant
            loop.call_soon_threadsafe(opened.set_exception, error)
            return
        self.model, self.passed = model, passed
        loop.call_soon_threadsafe(opened.set_result, None)
        while (jobs := self._take()) is not None:
            sizes: list[int] = []
            if isinstance(model, RemoteModel) and isinstance(model.runner, Forwarder):
                forward_jobs(model, jobs, sizes.append)
            else:
                run_jobs(model, jobs, sizes.append)
            with contextlib.suppress(RuntimeError):  # the loop is gone: the process is ending
                loop.call_soon_threadsafe(self._finish, jobs, sizes)
            del jobs
        model.close()

    def _take(self) -> list[Job] | None:
        """The next requests to run together; None at the end."""
        first = self._queue.get()
        if first is None:
            return None
        jobs, wait_until = [first], time.perf_counter() + self.config.max_delay_us / 1e6
        while len(jobs) < self.config.max_batch:
            try:
                left = wait_until - time.perf_counter()
                job = self._queue.get(timeout=left) if left > 0 else self._queue.get_nowait()
            except queue.Empty:
                break
            if job is None:
                self._queue.put(None)  # the end is for after these
                break
            jobs.append(job)
        return jobs


def total_times(times: Times, request_s: float) -> tuple[float, ...]:
    """Seconds in the order of `slab.STAGES`; overhead is what was not execution."""
    overhead = max(0.0, request_s - times.execute)
    return request_s, times.queue, times.preprocess, times.execute, times.postprocess, overhead
