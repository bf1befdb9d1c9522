"""The little of HTTP that the protocols need, over bare ASGI: requests with limits, responses, no framework."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import orjson

from lab.core.errors import DataError
from lab.serve.config import LimitsConfig
from lab.serve.protocols.errors import BodyTimeoutError, MediaTypeError, TooLargeError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON = "application/json"
DISCARDED = 4
"""Times the limit that a refused body may still bring. Closing a connection with unread bytes resets it, and who is
still sending then never reads the answer."""


@dataclass(slots=True)
class Request:
    """One request; `arrived_s` is on the clock of `time.perf_counter`."""

    scope: Scope
    receive: Receive
    limits: LimitsConfig
    headers: dict[bytes, bytes]
    arrived_s: float = field(default_factory=time.perf_counter)
    body: bytes = b""

    @classmethod
    def of(cls, scope: Scope, receive: Receive, limits: LimitsConfig) -> Request:
        return cls(scope, receive, limits, dict(scope["headers"]))

    @property
    def method(self) -> str:
        method: str = self.scope["method"]
        return method

    @property
    def path(self) -> str:
        path: str = self.scope["path"]
        return path

    def header(self, name: str) -> str | None:
        """A header by its name in lower case; None when it is absent or empty."""
        value = self.headers.get(name.encode())
        return value.decode("latin-1").strip() or None if value is not None else None

    @property
    def content_type(self) -> str:
        return self.header("content-type") or ""

    def query(self) -> dict[str, str]:
        """The last value of each parameter."""
        parsed = parse_qs(self.scope.get("query_string", b"").decode("latin-1"))
        return {name: values[-1] for name, values in parsed.items()}

    async def read(self) -> bytes:
        """The whole body, once.

        Raises:
            TooLargeError: more bytes than allowed, by Content-Length or as they come.
            MediaTypeError: a compressed body: decompressing is left out on purpose.
            BodyTimeoutError: it did not come in time, which `lab.serve.server` watches over.
        """
        encoding = self.header("content-encoding")
        if encoding not in (None, "identity"):
            raise MediaTypeError("compressed bodies are not accepted", got=encoding, expected="no Content-Encoding")
        length = self.header("content-length")
        if length is not None and length.isdecimal() and int(length) > self.limits.body_bytes:
            if int(length) <= DISCARDED * self.limits.body_bytes and "100-continue" not in (
                self.header("expect") or ""
            ):
                await self._discard(0)
            raise self._too_large(int(length))
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            event = await self.receive()
            if event["type"] == "http.disconnect":  # or `LimitedProtocol` has lost its patience
                raise BodyTimeoutError("the connection ended before its body had come")
            part, more = event.get("body", b""), bool(event.get("more_body"))
            parts.append(part)
            size += len(part)
            if size > self.limits.body_bytes:
                if more:
                    await self._discard(size)
                raise self._too_large(size)
        self.body = parts[0] if len(parts) == 1 else b"".join(parts)
        return self.body

    async def _discard(self, size: int) -> None:
        """Receive the rest of a body that is refused, so that its sender hears of it; within bounds."""
        more = True
        while more and size <= DISCARDED * self.limits.body_bytes:
            event = await self.receive()
            more = event["type"] == "http.request" and bool(event.get("more_body"))
            size += len(event.get("body", b""))

    def _too_large(self, size: int) -> TooLargeError:
        return TooLargeError("the body is too large", got=f"{size} bytes", expected=f"{self.limits.body_bytes} at most")


@dataclass(slots=True)
class Response:
    """What goes back; `headers` beside Content-Type and Content-Length."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()

    async def send(self, send: Send) -> None:
        headers = [(b"content-type", self.content_type.encode()), (b"content-length", str(len(self.body)).encode())]
        headers += [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in self.headers]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def json_response(data: Any, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """Numbers that JSON has no form for become null."""
    return Response(status, orjson.dumps(data), JSON, headers)


def parse_json(body: bytes, what: str = "the body") -> Any:
    """Raises DataError when it is no JSON, or nested too deeply."""
    try:
        return orjson.loads(body)
    except (orjson.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{what} is not JSON", got=str(error)[:120]) from error


def parse_object(body: bytes, what: str = "the body") -> dict[str, Any]:
    """Raises DataError when it is no JSON object."""
    found = parse_json(body, what)
    if not isinstance(found, dict):
        raise DataError(f"{what} is no JSON object", got=type(found).__name__)
    return found
