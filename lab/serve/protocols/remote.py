"""Requests that the supervisor answers: control plane, weights, feedback, metrics, the live page's state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from lab.core.errors import DataError, LabError
from lab.serve.channel import Channel, ChannelClosedError, RemoteError
from lab.serve.protocols.errors import MediaTypeError, NotReadyError, failure_of
from lab.serve.protocols.http import Request, Response, parse_object

AMZ_JSON = "application/x-amz-json-1.1"
_TARGET = "SageMaker."
# Kinds of errors that the caller can do something about: a wrong request, or a model that is not fit to be served.
_CALLERS = ("data", "config", "artifact", "integrity", "incompatible", "parity", "unsupported", "missing_tool")
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Remote:
    """Handlers that pass a request on over the worker's channel."""

    channel: Channel

    async def control(self, request: Request, segments: tuple[str, ...]) -> Response:
        """POST / with X-Amz-Target: SageMaker.Operation, JSON 1.1."""
        target = request.header("x-amz-target") or ""
        if not target.startswith(_TARGET):
            raise DataError("no X-Amz-Target of SageMaker", got=target[:80] or "none", expected="SageMaker.Operation")
        _needs_json(request)
        body = await request.read()
        arguments = parse_object(body) if body.strip() else {}
        answer = await self._ask("control", operation=target.removeprefix(_TARGET), arguments=arguments)
        status, content = int(answer["status"]), answer["body"]
        named = (("x-amzn-errortype", content["__type"]),) if status >= 400 else ()
        return Response(status, b"" if content is None else orjson.dumps(content), AMZ_JSON, named)

    async def weights(self, request: Request, segments: tuple[str, ...]) -> Response:
        """POST /endpoints/NAME/weights {variant: weight}."""
        _needs_json(request)
        weights = parse_object(await request.read())
        return _ok(await self._ask("weights", endpoint=segments[0], weights=weights))

    async def rollout(self, request: Request, segments: tuple[str, ...]) -> Response:
        """POST /endpoints/NAME/rollout {"variant": candidate}."""
        _needs_json(request)
        return _ok(await self._ask("rollout", endpoint=segments[0], arguments=parse_object(await request.read())))

    async def reload(self, request: Request, segments: tuple[str, ...]) -> Response:
        """POST /endpoints/NAME/reload {"variant": NAME, "model": folder}: load, warm, compare, swap, drain."""
        _needs_json(request)
        return _ok(await self._ask("reload", endpoint=segments[0], arguments=parse_object(await request.read())))

    async def feedback(self, request: Request, segments: tuple[str, ...]) -> Response:
        """POST /endpoints/NAME/feedback {"inference_id", "metric", "value"}."""
        document = parse_object(await request.read())
        return Response(202, orjson.dumps(await self._ask("feedback", endpoint=segments[0], outcome=document)))

    async def metrics(self, request: Request, segments: tuple[str, ...]) -> Response:
        text: str = await self._ask("metrics")
        return Response(200, text.encode(), METRICS_TYPE)

    async def state(self, request: Request, segments: tuple[str, ...]) -> Response:
        return _ok(await self._ask("state"))

    async def _ask(self, name: str, **arguments: Any) -> Any:
        try:
            return await self.channel.request(name, **arguments)
        except (ChannelClosedError, TimeoutError) as error:
            raise NotReadyError("the supervisor does not answer") from error
        except RemoteError as error:
            if error.kind in _CALLERS:
                raise DataError(error.what, got=error.got, expected=error.expected, hint=error.hint) from error
            raise


def _needs_json(request: Request) -> None:
    """A page of another site can send forms and text here, but not JSON without asking first (CORS)."""
    kind = request.content_type.partition(";")[0].strip().lower()
    if kind not in ("application/json", AMZ_JSON):
        raise MediaTypeError("this takes JSON", got=kind or "no content type", expected="application/json")


def _ok(answer: Any) -> Response:
    return Response(200, orjson.dumps(answer))


def control_error(error: LabError) -> Response:
    """An error as the control plane's clients parse it."""
    failure = failure_of(error)
    names = {401: "AccessDeniedException", 403: "AccessDeniedException", 503: "ServiceUnavailable"}
    name = names.get(failure.status, "ValidationException" if failure.status < 500 else "InternalFailure")
    body = {"__type": name, "message": failure.message}
    return Response(failure.status, orjson.dumps(body), AMZ_JSON, (("x-amzn-errortype", name),))
