"""The ASGI application of a worker: paths to handlers, errors to each protocol's form. No framework, no middleware."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import orjson

from lab.core.errors import LabError
from lab.core.progress import warn
from lab.serve.auth import Gatekeeper
from lab.serve.config import EndpointConfig
from lab.serve.protocols.errors import AccountedError, MethodError, NotFoundError, failure_of, to_serve_error
from lab.serve.protocols.http import Receive, Request, Response, Scope, Send

Handler = Callable[[Request, tuple[str, ...]], Awaitable[Response]]
AnswerError = Callable[[LabError], Response]


@dataclass(frozen=True)
class Route:
    """A method and a path; `*` in the pattern is one segment, given to the handler. Empty scopes: open to all."""

    method: str
    pattern: str
    handler: Handler
    scopes: tuple[str, ...]
    protocol: str = "other"
    counted: bool = True
    """False where the handler accounts for the requests it answers."""


class App:
    """Dispatches requests. `errors` gives each protocol's form of an error; `count` is told what reached no variant."""

    def __init__(
        self, config: EndpointConfig, routes: list[Route], errors: dict[str, AnswerError],
        count: Callable[[Request, str, int, float, str], None],
    ) -> None:  # fmt: skip
        self._limits, self._gate = config.limits, Gatekeeper(config)
        self._errors, self._count = errors, count
        self.draining = False
        self._exact = {(r.method, r.pattern): r for r in routes if "*" not in r.pattern}
        self._patterns: dict[int, list[tuple[Route, list[str]]]] = {}
        for route in (r for r in routes if "*" in r.pattern):
            parts = route.pattern.split("/")
            self._patterns.setdefault(len(parts), []).append((route, parts))
        self._paths = {r.pattern for r in routes if "*" not in r.pattern}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request.of(scope, receive, self._limits)
        protocol, reason = "other", ""
        try:
            self._gate.check_host(request)
            route, segments = self._route(request)
            protocol = route.protocol
            if route.scopes:
                self._gate.check(request, route.scopes)
            response, counted = await route.handler(request, segments), route.counted
        except AccountedError as error:
            (response, _), counted = self._answer(error.shown, protocol), False
        except Exception as error:  # noqa: BLE001  the one edge where errors become responses
            (response, reason), counted = self._answer(error, protocol), True
        if self.draining:
            # The client is to come back over another connection, to a process that stays.
            response.headers = (*response.headers, ("connection", "close"))
        if counted:
            self._count(request, protocol, response.status, time.perf_counter() - request.arrived_s, reason)
        await response.send(send)

    def _route(self, request: Request) -> tuple[Route, tuple[str, ...]]:
        method = "GET" if request.method == "HEAD" else request.method
        found = self._exact.get((method, request.path))
        if found is not None:
            return found, ()
        parts, other_method = request.path.split("/"), request.path in self._paths
        for route, pattern in self._patterns.get(len(parts), ()):
            if all(want in ("*", got) for want, got in zip(pattern, parts, strict=True)):
                if route.method == method:
                    return route, tuple(got for want, got in zip(pattern, parts, strict=True) if want == "*")
                other_method = True
        if other_method:
            raise MethodError(f"{request.method} is not allowed here")
        raise NotFoundError(
            "there is nothing at this path", got=request.path[:200], hint="/openapi.json lists the paths"
        )

    def _answer(self, error: Exception, protocol: str) -> tuple[Response, str]:
        """The response, and why the request was rejected."""
        shown, is_ours = to_serve_error(error)
        if is_ours:
            warn(f"a request failed: {error!r}")
        failure = failure_of(shown)
        response = self._errors.get(protocol, plain_error)(shown)
        if failure.retry_after_s is not None:
            response.headers = (*response.headers, ("retry-after", str(failure.retry_after_s)))
        if failure.status == 401:
            response.headers = (*response.headers, ("www-authenticate", "Bearer"))
        return response, failure.reason


def plain_error(error: LabError) -> Response:
    """{"error": message}, as the Open Inference Protocol has it."""
    failure = failure_of(error)
    return Response(failure.status, orjson.dumps({"error": failure.message}))
