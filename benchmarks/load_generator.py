"""A small HTTP/1.1 load generator: keep-alive connections, closed loop or a fixed rate, every request accounted for.

Latency at a fixed rate is counted from when a request was due, not from when a busy generator got round to it, so that
a server that stalls is not flattered (coordinated omission).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np


@dataclass
class Outcome:
    """What came of a load; latencies in seconds of answered requests."""

    latencies_s: list[float] = field(default_factory=list)
    rejections_s: list[float] = field(default_factory=list)
    """Those among them that were answered 503."""
    statuses: Counter[int] = field(default_factory=Counter)
    variants: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    refused: int = 0
    duration_s: float = 0.0
    cpu_s: float = 0.0

    def summary(self) -> dict[str, object]:
        """Milliseconds, requests per second, the generator's own share of one core."""
        ms = np.asarray(self.latencies_s or [float("nan")]) * 1e3
        quantiles = {f"p{q:g}_ms": round(float(np.percentile(ms, q)), 3) for q in (50, 90, 99, 99.9)}
        rate = len(self.latencies_s) / self.duration_s if self.duration_s else 0.0
        return {
            "requests": len(self.latencies_s), "requests_per_s": round(rate, 1), **quantiles,
            "statuses": {str(k): v for k, v in sorted(self.statuses.items())}, "lost": self.lost,
            "refused": self.refused,
            "generator_cores": round(self.cpu_s / self.duration_s, 3) if self.duration_s else 0.0,
        }  # fmt: skip


class _Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.waiting: asyncio.Future[tuple[int, str, bool]] | None = None
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        length = int(_header(head, b"content-length") or b"0")
        if len(self._buffer) < end + 4 + length:
            return
        self._buffer = self._buffer[end + 4 + length :]
        if self.waiting is not None and not self.waiting.done():
            variant = _header(head, b"x-amzn-invoked-production-variant") or b""
            closes = _header(head, b"connection") == b"close"
            self.waiting.set_result((int(head[9:12]), variant.decode(), closes))

    def connection_lost(self, error: Exception | None) -> None:
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_exception(error or ConnectionResetError("closed"))

    def send(self, request: bytes) -> asyncio.Future[tuple[int, str, bool]]:
        assert self.transport is not None
        self.waiting = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.waiting

    @property
    def usable(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()


def _header(head: bytes, name: bytes) -> bytes | None:
    at = head.find(b"\r\n" + name + b":")
    return head[at + len(name) + 3 :].split(b"\r\n", 1)[0].strip() if at >= 0 else None


def request_bytes(
    host: str, path: str, body: bytes, content_type: str, headers: dict[str, str] | None = None, method: str = "POST"
) -> bytes:
    """One request."""
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: {host}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
    ]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


class Load:
    """A load on one address. `stop()` ends it after the requests under way.

    Args:
        rate: requests per second over all connections; None sends as soon as the last is answered.
    """

    def __init__(
        self, host: str, port: int, request: bytes, *, connections: int = 8, rate: float | None = None
    ) -> None:
        self.host, self.port, self.request = host, port, request
        self.connections, self.rate = connections, rate
        self.outcome = Outcome()
        self._stopped = False
        self._due: deque[float] = deque()
        self._next_due = 0.0

    def stop(self) -> None:
        self._stopped = True

    async def run(self, duration_s: float) -> Outcome:
        """Load for so long, or until `stop`."""
        began, cpu = time.perf_counter(), time.process_time()
        self._next_due = began
        ends = began + duration_s
        await asyncio.gather(*(self._client(ends) for _ in range(self.connections)))
        self.outcome.duration_s = time.perf_counter() - began
        self.outcome.cpu_s = time.process_time() - cpu
        return self.outcome

    async def _client(self, ends: float) -> None:
        loop = asyncio.get_running_loop()
        connection: _Connection | None = None
        while not self._stopped and time.perf_counter() < ends:
            due = await self._turn()
            if due > ends or self._stopped:
                break
            if connection is None or not connection.usable:
                try:
                    _, connection = await loop.create_connection(_Connection, self.host, self.port)
                except OSError:
                    self.outcome.refused += 1
                    await asyncio.sleep(0.01)
                    continue
            connection = await self._one(connection, due)
        if connection is not None and connection.transport is not None:
            connection.transport.close()

    async def _turn(self) -> float:
        """Wait for this request's time; returns when its latency starts.

        Event loops' timers are up to a millisecond late: that is not the server's doing, so a client that had to wait
        counts from when it woke. One that was still busy with its last answer counts from when it should have sent.
        """
        if self.rate is None:
            return time.perf_counter()
        due, self._next_due = self._next_due, self._next_due + 1.0 / self.rate
        delay = due - time.perf_counter()
        if delay <= 0:
            return due
        await asyncio.sleep(delay)
        return time.perf_counter()

    async def _one(self, connection: _Connection, due: float) -> _Connection | None:
        try:
            status, variant, closes = await asyncio.wait_for(connection.send(self.request), 30)
        except (OSError, TimeoutError):
            self.outcome.lost += 1
            return None
        self.outcome.latencies_s.append(time.perf_counter() - due)
        self.outcome.statuses[status] += 1
        if status == 503:
            self.outcome.rejections_s.append(self.outcome.latencies_s[-1])
        if variant:
            self.outcome.variants[variant] += 1
        if closes and connection.transport is not None:
            connection.transport.close()
            return None
        return connection


def main() -> None:
    """Run one load from the command line, in a process of its own; prints a JSON summary."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("body", type=Path)
    parser.add_argument("--content-type", default="application/octet-stream")
    parser.add_argument("--method", default="POST")
    parser.add_argument("--header", action="append", default=[])
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    headers = dict(item.split("=", 1) for item in options.header)
    request = request_bytes(
        options.host, options.path, options.body.read_bytes(), options.content_type, headers, options.method
    )
    load = Load(options.host, options.port, request, connections=options.connections, rate=options.rate)
    try:
        import uvloop

        outcome = uvloop.run(load.run(options.seconds))
    except ImportError:
        outcome = asyncio.run(load.run(options.seconds))
    print(json.dumps(outcome.summary() | {"variants": dict(outcome.variants)}))


if __name__ == "__main__":
    main()
