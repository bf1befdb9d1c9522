"""uvicorn with what it lacks: limits on headers in bytes and in time, and a drain that loses no request."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lab.serve.app import App
from lab.serve.config import EndpointConfig, LimitsConfig

_SETTLE_S = 0.25
"""Between telling clients to leave and closing the listener: connections that were on their way are accepted."""
_ACCEPT_S = 0.05
"""For accepting what was let in."""
_SO_ATTACH_FILTER, _BPF_RETURN = 26, 0x06
_IDLE_S = 1.0
"""How long an idle connection may still send a request while draining."""


class LimitedProtocol(HttpToolsProtocol):
    """One connection. `limits` is set by `make_server`, one class per server."""

    limits: LimitsConfig
    _timer: asyncio.TimerHandle | None = None
    _header_bytes = 0
    _in_headers = True
    _in_body = False
    _refusal = (400, "Invalid HTTP request received.")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch(self.limits.header_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_headers:
            self._header_bytes += len(data)
        super().data_received(data)
        if self._in_body and self._timer is None:  # not all came at once, as it nearly always does
            self._watch(self.limits.body_timeout_s)
        if self._in_headers and self._header_bytes > self.limits.header_bytes and not self.transport.is_closing():
            self._refuse(431, "The request's headers are too large.")

    def on_message_begin(self) -> None:
        self._in_headers = True
        self._watch(self.limits.header_timeout_s)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._unwatch()
        self._in_headers, self._in_body, self._header_bytes = False, True, 0
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self.limits.header_bytes:
            self._refusal = (431, "The request's headers are too large.")
            raise ValueError("headers too large")  # becomes `send_400_response`
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_body = False
        self._unwatch()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(*self._refusal)

    def shutdown(self) -> None:
        self._unwatch()
        super().shutdown()

    def _watch(self, timeout_s: float) -> None:
        self._unwatch()
        self._timer = self.loop.call_later(timeout_s, self._too_slow)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        if not self.transport.is_closing():
            self._refuse(408, f"The request's {'body' if self._in_body else 'headers'} did not come in time.")

    def _refuse(self, status: int, message: str) -> None:
        body = f'{{"error": "{message}"}}'.encode()
        phrase = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}[status]
        head = f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(f"{head}connection: close\r\n\r\n".encode() + body)
        self.transport.close()


class WorkerServer(uvicorn.Server):
    """A server whose signals belong to the supervisor."""

    def __init__(self, config: uvicorn.Config, app: App) -> None:
        super().__init__(config)
        self._app = app
        self._bound: list[socket.socket] = []

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve on bound sockets until drained."""
        self._bound = sockets or []
        await super().serve(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def drain(self) -> None:
        """Say goodbye on every answer, stop listening, give idle connections a moment, then let uvicorn end.

        A client that sends on an idle connection just as it is closed would lose its request; so each connection is
        closed by an answer that says so, and only those that stay silent are closed without. Clients that come back
        after such an answer come to this listener too, and closing it would cut off those that the kernel has let in
        and nobody has accepted: so first no more are let in, and those that are get accepted.
        """
        self._app.draining = True
        await asyncio.sleep(_SETTLE_S)
        for bound in self._bound:
            refuse_new(bound)
        await asyncio.sleep(_ACCEPT_S)
        for server in self.servers:
            server.close()
        ends = asyncio.get_running_loop().time() + _IDLE_S
        while self.server_state.connections and asyncio.get_running_loop().time() < ends:
            await asyncio.sleep(0.02)
        self.should_exit = True


def make_server(config: EndpointConfig, app: App) -> WorkerServer:
    """A server for an application; it listens when `serve` is given a socket."""
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    protocol: Any = type("Protocol", (LimitedProtocol,), {"limits": config.limits})
    security = config.security
    settings = uvicorn.Config(
        app, http=protocol, loop="uvloop", ws="none", lifespan="off", log_config=None, access_log=False,
        server_header=False, date_header=False, limit_concurrency=config.limits.connections,
        timeout_keep_alive=int(config.limits.keep_alive_s), timeout_graceful_shutdown=int(config.limits.drain_s),
        ssl_certfile=security.tls_certificate, ssl_keyfile=security.tls_key, backlog=2048,
    )  # fmt: skip
    return WorkerServer(settings, app)


def refuse_new(listener: socket.socket) -> None:
    """Have the kernel drop what opens a connection; the other end tries again after a second, then to who is left.

    A socket filter of one instruction, "return 0" (Linux, Documentation/networking/filter.rst).
    """
    program = ctypes.create_string_buffer(struct.pack("HBBI", _BPF_RETURN, 0, 0, 0))
    with contextlib.suppress(OSError):  # where filters are not allowed, a few may be cut off
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(program)))


def moved(bound: socket.socket, place: int) -> socket.socket:
    """The socket under another descriptor, whose old meaning is given up.

    When a process is killed Linux closes its files from the highest descriptor down (`close_files` leaves each to a
    list of work that is done last in, first out). A listener that is closed after its connections would take in those
    clients that come back at once, only to cut them off a second time: its place is above theirs.
    """
    os.dup2(bound.fileno(), place, inheritable=False)
    bound.close()
    return socket.socket(fileno=place)


def reuse_port_socket(host: str, port: int) -> socket.socket:
    """A bound socket that shares its port with those of the other workers; the kernel spreads connections evenly.

    Raises:
        OSError: the port is taken by something else, or the host is not one of this machine.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound
