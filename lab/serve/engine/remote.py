"""A variant on another server: tensors over the Open Inference Protocol, or whole bodies to a SageMaker container.

    oip         requests of every protocol are read here, batched, and sent as binary tensors; the signature is the
                other server's metadata
    sagemaker   the body of /invocations goes on as it came, with its content type, Accept and the headers that the
                configuration names; nothing is batched

Whoever cannot be reached gets no traffic until a health check succeeds: it goes to another variant that is ready.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lab.artifacts.manifest import Manifest
from lab.core.errors import LabError, UnsupportedError
from lab.core.signature import Signature
from lab.runtime.http_client import UnreachableError
from lab.runtime.null_runner import NullRunner
from lab.runtime.remote_runner import RemoteRunner
from lab.serve.config import VariantConfig
from lab.serve.engine.gate import Passed
from lab.serve.engine.model import ServedModel
from lab.serve.engine.work import Answer, Job
from lab.serve.protocols.errors import DeadlineError
from lab.serve.protocols.invocations import InvocationWork
from lab.serve.remote_config import RemoteConfig

HEALTH_TIMEOUT_S = 2.0


class Health:
    """Whether a server answers: known from every request, and from a thread that asks while it did not."""

    def __init__(self, remote: RemoteConfig) -> None:
        self._remote, self.is_up, self._ended = remote, True, threading.Event()
        self._down = threading.Event()
        threading.Thread(target=self._ask, name="health", daemon=True).start()

    def failed(self) -> None:
        """It could not be reached: no traffic until it can."""
        self.is_up = False
        self._down.set()

    def close(self) -> None:
        self._ended.set()
        self._down.set()

    def _ask(self) -> None:
        while not self._ended.is_set():
            self._down.wait()
            if not self._ended.wait(self._remote.health_s) and self._answers():
                self._down.clear()
                self.is_up = True

    def _answers(self) -> bool:
        client = self._remote.client(HEALTH_TIMEOUT_S)
        try:
            client.request("GET", "/ready" if self._remote.protocol == "oip" else "/ping")
        except LabError:
            return False
        finally:
            client.close()
        return True


class Forwarder(NullRunner):
    """Stands where a runner does when bodies go on unread: nobody knows the tensors."""

    name = "forwarded"

    def __init__(self) -> None:
        super().__init__(Signature((), ()))


class RemoteModel(ServedModel):
    """What an executor thread calls instead of a model of its own. Raises as `RemoteRunner`."""

    def __init__(self, config: VariantConfig, health: Health) -> None:
        assert config.remote is not None
        self.config, self.parts, self._programs, self._health = config, [], {}, health
        self._client = config.remote.client(config.remote.timeout_s)
        if config.remote.protocol == "oip":
            self.runner = RemoteRunner(self._client)
        else:
            self.runner = Forwarder()
            self._client.request("GET", "/ping")
        self.signature = self.runner.signature
        self.manifest = Manifest(kind="onnx", name=config.remote.url, signature=self.signature)

    def run(self, feed: Any, options: Any = None) -> Any:
        """Tensors in, tensors out. Raises as `Client.request`."""
        return self._told(lambda: self.runner.run(feed))

    def forward(self, job: Job) -> Answer:
        """The other server's own answer to a body. Raises as `Client.request`, UnsupportedError for tensors."""
        work = job.work
        if not isinstance(work, InvocationWork):
            raise UnsupportedError("this variant takes /invocations only", hint="remote.protocol: oip takes tensors")
        headers = {"Content-Type": work.content_type, "Accept": work.accept or "*/*", **work.forwarded}
        reply = self._told(lambda: self._client.request("POST", "/invocations", work.body, headers))
        return Answer(reply.body, reply.headers.get("content-type", "application/octet-stream"))

    def _told(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except UnreachableError:
            self._health.failed()
            raise

    def close(self) -> None:
        self._client.close()


def forward_jobs(model: RemoteModel, jobs: Sequence[Job], on_batch: Callable[[int], None]) -> None:
    """Set every job's `result`, one after the other; nothing is raised but what is no Exception."""
    for job in jobs:
        began = time.perf_counter()
        job.times.queue = began - job.arrived_s
        try:
            if job.expired():
                raise DeadlineError("the request waited longer than its deadline and was dropped")
            on_batch(1)
            job.result = model.forward(job)
        except Exception as error:  # noqa: BLE001  whatever happens is the request's answer, not the thread's end
            job.result = error
        job.times.execute = time.perf_counter() - began


def opened(config: VariantConfig, folder: Path, steps: Sequence[Path], health: Health | None) -> ServedModel:
    """A variant's model, here or elsewhere."""
    return ServedModel(folder, config, steps) if health is None else RemoteModel(config, health)


PASSED = Passed(0.0, golden=False)
"""There is no gate for a model elsewhere but that it answers."""
