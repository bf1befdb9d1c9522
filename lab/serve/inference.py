"""One inference request in a worker: assign, admit, wait, account for it, mirror it, capture it."""

from __future__ import annotations

import random
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lab.core.progress import warn
from lab.serve.config import EndpointConfig
from lab.serve.engine.variant import Variant, total_times
from lab.serve.engine.work import Answer, Times, Work
from lab.serve.ids import Origin, make_id
from lab.serve.protocols.errors import AccountedError, ModelRaisedError, failure_of, status_name, to_serve_error
from lab.serve.protocols.http import Request
from lab.serve.records import Capture, LineWriter, stamp
from lab.serve.routing import Assignment
from lab.serve.shadow import Shadows
from lab.serve.slab import STATUSES, UNROUTED, Meter, Slab
from lab.serve.table import LiveEndpoint

MakeWork = Callable[[Variant, bool], Work]
"""(the variant, whether raw outputs are to be kept) -> the work."""


@dataclass(slots=True)
class Call:
    """A request that named an endpoint. `work` is made once its variant is known."""

    request: Request
    endpoint: LiveEndpoint
    protocol: str
    work: MakeWork
    unit: str | None = None
    target: str | None = None
    client_id: str | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """An answer, the variant that gave it, and the inference id to send outcomes with."""

    answer: Answer
    variant: str
    inference_id: str


class Inference:
    """The worker's one way to run models for requests.

    Args:
        key: of the inference ids.
    """

    def __init__(self, config: EndpointConfig, slab: Slab, worker: int, key: bytes) -> None:
        self.config, self._worker, self._key = config, worker, key
        self.unrouted = Meter(slab, worker, UNROUTED)
        self._ring = slab.ring(worker)
        self.writer = LineWriter()
        self._capture = Capture(config.data_capture, self.writer, random.random)
        self._shadows = Shadows(self._keep_difference)
        self.client_ids: deque[tuple[str, str]] = deque(maxlen=10_000)

    async def run(self, call: Call) -> Served:
        """Serve one request.

        Raises:
            AccountedError: with what may be shown to the client.
            LabError: the request could not be assigned; nothing has counted it.
        """
        assignment, version = call.endpoint.assign(call.unit, call.target)
        assigned = call.endpoint.variants[assignment.index]
        assigned.meter.add(f"assigned.{assignment.reason}")
        visit = _Visit(call, assignment, version, assigned, served=assigned)
        if not assigned.is_ready and call.target is None:
            visit.served = call.endpoint.fallback(assigned) or assigned
            visit.served.meter.add("assigned.fallback")
        shadows = call.endpoint.sampled_shadows() if call.endpoint.shadows else []
        try:
            work = call.work(visit.served, bool(shadows))
            job = visit.served.admit(work, call.request.arrived_s)
            visit.times = job.times
            answer = await job.future
        except Exception as error:
            raise self._failed(visit, error) from error
        served = self._succeeded(visit, answer)
        for shadow in shadows:
            self._shadows.mirror(shadow, visit.served, work, answer, served.inference_id)
        return served

    def _succeeded(self, visit: _Visit, answer: Answer) -> Served:
        self._account(visit, 200, "")
        assignment = visit.assignment
        origin = Origin(
            visit.assigned.config.name, assignment.unit_hash, assignment.reason == "target",
            assignment.reason == "sticky",
        )  # fmt: skip
        inference_id = make_id(self._key, origin)
        if visit.call.client_id is not None:
            self.client_ids.append((visit.call.client_id, inference_id))
        if self._capture.wants():
            self._captured(visit, answer, visit.call.client_id or inference_id)
        return Served(answer, visit.served.config.name, inference_id)

    def _failed(self, visit: _Visit, error: Exception) -> AccountedError:
        shown, is_ours = to_serve_error(error)
        failure = failure_of(shown)
        if is_ours and isinstance(shown, ModelRaisedError):
            trace = "".join(traceback.format_exception(error))
            warn(f"variant {visit.served.config.name}, error {shown.error_id}:\n{trace}")
        if failure.reason:
            visit.served.meter.add(f"rejected.{failure.reason}")
        self._account(visit, failure.status, failure.reason)
        return AccountedError(shown)

    def _account(self, visit: _Visit, status: int, reason: str) -> None:
        """Counters, histograms, the guard's observation, the access log."""
        request_s = time.perf_counter() - visit.call.request.arrived_s
        meter, assignment = visit.assigned.meter, visit.assignment
        meter.request(visit.call.protocol, status)
        meter.stages(total_times(visit.times, request_s))
        kind = status_name(status)
        if reason == "deadline":
            kind = "rejected"  # it waited too long: that says more of the load than of the variant
        in_hands_ms = max(0.0, request_s - visit.times.queue) * 1e3
        pinned, sticky = assignment.reason == "target", assignment.reason == "sticky"
        unit = assignment.unit_hash or random.getrandbits(63)
        self._ring.put(
            time.time() - request_s, in_hands_ms, unit, visit.version, meter.slot, STATUSES.index(kind), pinned, sticky
        )
        if self.config.log.access_log is not None:
            self.log(visit.call.request, status, request_s, self._fields(visit))

    def _fields(self, visit: _Visit) -> dict[str, Any]:
        return {
            "endpoint": visit.call.endpoint.name, "assigned": visit.assigned.config.name,
            "served": visit.served.config.name, "assignment": visit.assignment.reason,
            "unit": f"{visit.assignment.unit_hash:x}", "queue_ms": round(visit.times.queue * 1e3, 3),
            "execute_ms": round(visit.times.execute * 1e3, 3),
        }  # fmt: skip

    def log(self, request: Request, status: int, request_s: float, fields: dict[str, Any]) -> None:
        """One line of the access log; nothing without one."""
        if self.config.log.access_log is None:
            return
        client = request.scope.get("client")
        record = {
            "time": stamp(), "worker": self._worker, "client": client[0] if client else None, "method": request.method,
            "path": request.path, "status": status, "bytes_in": len(request.body), "ms": round(request_s * 1e3, 3),
        }  # fmt: skip
        self.writer.put(self.config.log.access_log, record | fields)

    def _captured(self, visit: _Visit, answer: Answer, inference_id: str) -> None:
        request = visit.call.request
        kept = self._capture.put(
            visit.call.endpoint.name, visit.served.config.name, (request.content_type, request.body),
            (answer.content_type, answer.body), inference_id,
        )  # fmt: skip
        visit.served.meter.add("captured" if kept else "capture_dropped")

    def _keep_difference(self, record: Any) -> None:
        folder = self.config.log.state_dir / self.config.endpoint
        self.writer.put(folder / "shadow.jsonl", record)


@dataclass(slots=True)
class _Visit:
    """What is known of a request while it is served."""

    call: Call
    assignment: Assignment
    version: int
    assigned: Variant
    served: Variant
    times: Times = field(default_factory=Times)
