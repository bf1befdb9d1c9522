"""The client of model servers: what is tried again, what is not, and what each failure is called."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest

from lab.core.errors import ConfigError, DataError, LabError
from lab.runtime.http_client import Client, RemoteFailedError, RemoteTimeoutError, UnreachableError

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\nhi"


@contextmanager
def server(*connections: Callable[[socket.socket], None]) -> Iterator[tuple[str, list[int]]]:
    """One function per connection, in turn; the address, and the number of connections that came."""
    seen: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            for number, serve in enumerate(connections):
                try:
                    taken, _ = listener.accept()
                except OSError:
                    return
                with taken:
                    seen.append(number)
                    serve(taken)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", seen


def answering(*answers: bytes) -> Callable[[socket.socket], None]:
    def serve(taken: socket.socket) -> None:
        for answer in answers:
            request = b""
            while not request.endswith(b"{}") and (part := taken.recv(65536)):  # the body comes by itself
                request += part
            if request:
                taken.sendall(answer)

    return serve


def status(line: str, body: bytes = b"why") -> bytes:
    return f"HTTP/1.1 {line}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def test_a_connection_is_kept() -> None:
    with server(answering(OK, OK)) as (url, seen):
        client = Client(url, 5.0)
        assert [client.request("POST", "/x", b"{}").body for _ in range(2)] == [b"hi", b"hi"]
        client.close()
    assert seen == [0]


def test_one_that_was_closed_while_idle_is_opened_again() -> None:
    with server(answering(OK), answering(OK)) as (url, seen):
        client = Client(url, 5.0, retries=0)
        assert client.request("POST", "/x", b"{}").headers["x-a"] == "b"
        assert client.request("POST", "/x", b"{}").body == b"hi"
        client.close()
    assert seen == [0, 1]


def test_a_fresh_connection_that_breaks_off_is_not_tried_again() -> None:
    """The request may have run."""
    with server(answering(b""), answering(OK)) as (url, seen):
        with pytest.raises(UnreachableError, match="broke off"):
            Client(url, 5.0, retries=3).request("POST", "/x", b"{}")
        assert seen == [0]


def test_silence_is_not_tried_again() -> None:
    done = threading.Event()
    with server(lambda taken: (bool(taken.recv(100)) and bool(done.wait(20))) or None, answering(OK)) as (url, seen):
        with pytest.raises(RemoteTimeoutError, match=r"within 0\.2 s"):
            Client(url, 0.2, retries=3).request("POST", "/x", b"{}")
        done.set()
        assert seen == [0]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (status("400 Bad Request"), DataError), (status("413 Too Large"), DataError),
        (status("424 Failed Dependency"), RemoteFailedError), (status("500 Oh"), RemoteFailedError),
        (status("503 Later"), UnreachableError), (status("429 Slowly"), UnreachableError),
        (b"no HTTP\r\n\r\n", RemoteFailedError),
    ],
)  # fmt: skip
def test_each_failure_has_its_name(answer: bytes, error: type[LabError]) -> None:
    with server(answering(answer)) as (url, _), closing(Client(url, 5.0)) as client, pytest.raises(error):
        client.request("POST", "/x", b"{}")


def test_nobody_there_and_no_address() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(UnreachableError, match="cannot be reached"):
            Client(f"http://127.0.0.1:{bound.getsockname()[1]}", 2.0, retries=2).request("GET", "/")
    for base in ("ftp://x", "http://", "nothing", "http://x/?a=b"):
        with pytest.raises(ConfigError, match="no address"):
            Client(base, 1.0)
