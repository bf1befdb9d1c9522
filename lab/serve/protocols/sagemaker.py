"""SageMaker's container (`/ping`, `/invocations`) and runtime (`/endpoints/NAME/invocations`), and the errors of both.

Source: botocore's model of sagemaker-runtime, "Amazon SageMaker AI Developer Guide: custom inference code".
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from email.utils import formatdate

import orjson

from lab.core.errors import DataError, LabError
from lab.serve.config import EndpointConfig
from lab.serve.engine.variant import Variant
from lab.serve.engine.work import Work
from lab.serve.inference import Call, Inference, Served
from lab.serve.protocols.errors import failure_of
from lab.serve.protocols.http import JSON, Request, Response
from lab.serve.protocols.invocations import InvocationWork
from lab.serve.table import Endpoints, LiveEndpoint

_PREFIX = "x-amzn-sagemaker-"
NEW_SESSION = "NEW_SESSION"
_SESSION_S = 24 * 3600
MAX_ID = 256
ERRORS = {
    400: "ValidationError", 401: "AccessDeniedException", 403: "AccessDeniedException", 404: "ValidationError",
    424: "ModelError", 429: "ModelNotReadyException", 500: "InternalFailure", 503: "ServiceUnavailable",
    504: "ModelError",
}  # fmt: skip


@dataclass(frozen=True)
class SageMaker:
    """Handlers of both."""

    config: EndpointConfig
    endpoints: Endpoints
    inference: Inference

    async def ping(self, request: Request, segments: tuple[str, ...]) -> Response:
        """200 while any endpoint can answer (EP-2)."""
        ready = not self.endpoints.draining and any(one.is_ready for one in self.endpoints.live.values())
        return Response(200 if ready else 503, b"", "text/plain")

    async def execution_parameters(self, request: Request, segments: tuple[str, ...]) -> Response:
        """What batch transform asks first (EP-6)."""
        variant = self.endpoints.the_default().named(None).config
        body = {
            "MaxConcurrentTransforms": variant.executor_threads * self.config.workers, "BatchStrategy": "MULTI_RECORD",
            "MaxPayloadInMB": max(1, self.config.limits.body_bytes // 2**20),
        }  # fmt: skip
        return Response(200, orjson.dumps(body))

    async def container(self, request: Request, segments: tuple[str, ...]) -> Response:
        """POST /invocations: the configuration's endpoint."""
        return await self._invoke(request, self.endpoints.the_default(), "container")

    async def invoke(self, request: Request, segments: tuple[str, ...]) -> Response:
        """POST /endpoints/NAME/invocations."""
        return await self._invoke(request, self.endpoints[segments[0]], "sagemaker")

    async def _invoke(self, request: Request, endpoint: LiveEndpoint, protocol: str) -> Response:
        unit, opened = session_of(request, endpoint.unit_header)
        body = await request.read()
        accept = request.header("accept") or ""

        def work(variant: Variant, keep: bool) -> Work:
            remote = variant.config.remote
            forwarded = {name: value for name in remote.forward if (value := request.header(name))} if remote else {}
            return InvocationWork(body, request.content_type, accept, self.config.limits.image_pixels, keep, forwarded)

        target = request.header(_PREFIX + "target-variant")
        client_id = checked_id(request.header(_PREFIX + "inference-id"), "the inference id")
        served = await self.inference.run(Call(request, endpoint, protocol, work, unit, target, client_id))
        return Response(200, served.answer.body, served.answer.content_type, _headers(request, served, opened))


def checked_id(text: str | None, what: str) -> str | None:
    """Raises DataError when an id is longer than any should be."""
    if text is not None and len(text) > MAX_ID:
        raise DataError(f"{what} is too long", got=f"{len(text)} characters", expected=f"{MAX_ID} at most")
    return text


def session_of(request: Request, unit_header: str) -> tuple[str | None, str | None]:
    """The unit a request belongs to, and the id of a session that it opened."""
    session = checked_id(request.header(_PREFIX + "session-id"), "the session id")
    if session == NEW_SESSION:
        opened = secrets.token_hex(16)
        return opened, opened
    return session or checked_id(request.header(unit_header), "the unit's id"), None


def _headers(request: Request, served: Served, opened: str | None) -> tuple[tuple[str, str], ...]:
    headers = [
        ("x-Amzn-Invoked-Production-Variant", served.variant), ("X-Lab-Inference-Id", served.inference_id),
        *served.answer.headers,
    ]  # fmt: skip
    if opened is not None:
        expires = formatdate(time.time() + _SESSION_S, usegmt=True)
        headers.append(("X-Amzn-SageMaker-New-Session-Id", f"{opened}; Expires={expires}"))
    custom = request.header(_PREFIX + "custom-attributes")
    if custom is not None and len(custom) <= 1024:
        headers.append(("X-Amzn-SageMaker-Custom-Attributes", custom))
    return tuple(headers)


def runtime_error(error: LabError) -> Response:
    """An error as sagemaker-runtime's clients parse it."""
    failure = failure_of(error)
    name = ERRORS.get(failure.status, "ValidationError" if failure.status < 500 else "InternalFailure")
    body: dict[str, object] = {"message": failure.message, "Message": failure.message}
    if name == "ModelError":
        body |= {"OriginalStatusCode": 500 if failure.status == 424 else failure.status,
                 "OriginalMessage": failure.message, "LogStreamArn": ""}  # fmt: skip
    return Response(failure.status, orjson.dumps(body), JSON, (("x-amzn-errortype", name),))
