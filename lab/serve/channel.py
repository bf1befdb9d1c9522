"""Messages between supervisor and workers: JSON lines over a socket pair, requests with answers and plain notices."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson

from lab.core.errors import LabError

Handler = Callable[[dict[str, Any]], Awaitable[Any]]
_MAX_LINE_BYTES = 64 * 1024 * 1024


class ChannelClosedError(LabError):
    """The other process has gone."""


class RemoteError(LabError):
    """The other process's handler failed; `details` are `LabError.to_dict` of what it raised, whose kind it keeps."""

    def __init__(self, details: Mapping[str, Any]) -> None:
        self.kind = str(details.get("kind", "error"))
        super().__init__(str(details.get("what", "the other process failed")), got=details.get("got"),
                         expected=details.get("expected"), hint=details.get("try"))  # fmt: skip


class Channel:
    """One end. `handlers` answer the other end's requests by name; a LabError goes back as `RemoteError`."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self.handlers = dict(handlers)
        self.closed = asyncio.Event()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._writer: asyncio.StreamWriter | None = None

    async def open(self, end: socket.socket) -> None:
        """Start reading."""
        reader, self._writer = await asyncio.open_connection(sock=end, limit=_MAX_LINE_BYTES)
        self._spawn(self._read(reader))

    async def request(self, name: str, timeout_s: float = 60.0, **arguments: Any) -> Any:
        """Call the other end's handler.

        Raises:
            RemoteError: it raised. ChannelClosedError: it is gone. TimeoutError.
        """
        number = next(self._numbers)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            self._send({"id": number, "call": name, "arguments": arguments})
            return await asyncio.wait_for(future, timeout_s)
        finally:
            self._waiting.pop(number, None)

    def notify(self, name: str, **arguments: Any) -> None:
        """Call without waiting for an answer; nothing happens when the other end is gone."""
        with contextlib.suppress(ChannelClosedError):
            self._send({"call": name, "arguments": arguments})

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _send(self, message: Mapping[str, Any]) -> None:
        if self._writer is None or self.closed.is_set() or self._writer.is_closing():
            raise ChannelClosedError("the other process is gone")
        self._writer.write(orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError, ValueError):
            while line := await reader.readline():
                self._receive(orjson.loads(line))
        self.closed.set()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ChannelClosedError("the other process is gone"))

    def _receive(self, message: dict[str, Any]) -> None:
        if "call" in message:
            self._spawn(self._handle(message))
            return
        future = self._waiting.get(message["id"])
        if future is None or future.done():
            return
        if "error" in message:
            future.set_exception(RemoteError(message["error"]))
        else:
            future.set_result(message.get("result"))

    async def _handle(self, message: dict[str, Any]) -> None:
        answer: dict[str, Any] = {"id": message.get("id")}
        try:
            answer["result"] = await self.handlers[message["call"]](message["arguments"])
        except LabError as error:
            answer["error"] = error.to_dict()
        except Exception as error:  # noqa: BLE001  the process must outlive any one message
            answer["error"] = {"kind": "error", "what": f"{message['call']} failed", "got": repr(error)}
        if answer["id"] is not None:
            with contextlib.suppress(ChannelClosedError):
                self._send(answer)

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
