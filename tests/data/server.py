"""A small web server with range requests that can break connections: stands for http servers and for S3."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MISSING = b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code><Message>not there</Message></Error>"
EMPTY_LIST = b"<?xml version='1.0'?><ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>"


class Server:
    """Serves the files below `root`; `faults` connections, after `good_gets` good ones, end after half their bytes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.faults = 0
        self.good_gets = 0
        self.ranges = True
        self.refused = False
        self.requests: list[tuple[str, str, str | None]] = []
        self.url = ""

    def respond(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        path = request.path.partition("?")[0]
        wanted = request.headers.get("Range")
        self.requests.append((request.command, path, wanted))
        if "list-type" in request.path:
            self._send(request, 200, EMPTY_LIST, {}, body)
            return
        if self.refused:
            self._send(request, 403, b"", {}, body)
            return
        file = self.root / path.lstrip("/")
        if not file.is_file():
            self._send(request, 404, MISSING, {}, body)
            return
        content, headers, status = (
            file.read_bytes(),
            {"ETag": '"1"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"},
            200,
        )
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted or "") if self.ranges else None
        if found:
            first, last = int(found[1]), min(int(found[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, status = content[first : last + 1], 206
        headers["Accept-Ranges"] = "bytes" if self.ranges else "none"
        self._send(request, status, content, headers, body, breaks=body and self._breaks())

    def _breaks(self) -> bool:
        self.good_gets -= 1
        if self.good_gets >= 0 or not self.faults:
            return False
        self.faults -= 1
        return True

    @staticmethod
    def _send(
        request: BaseHTTPRequestHandler,
        status: int,
        content: bytes,
        headers: dict[str, str],
        body: bool,
        *,
        breaks: bool = False,
    ) -> None:
        request.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            request.send_header(name, value)
        request.end_headers()
        if body:
            request.wfile.write(content[: len(content) // 2] if breaks else content)
        if breaks:
            request.wfile.flush()
            request.connection.shutdown(2)


@contextmanager
def serve(root: Path) -> Iterator[Server]:
    """A server on a free port of this machine."""
    state = Server(root)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.respond(self, body=True)

        def do_HEAD(self) -> None:
            state.respond(self, body=False)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        state.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield state
        server.shutdown()
        thread.join()
