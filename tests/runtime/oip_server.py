"""A server of one model in a thread: the endpoint's own reading and writing of the Open Inference Protocol, no more."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

from lab.core.interfaces import Runner
from lab.serve.protocols.oip import HEADER_LENGTH, InferWork, model_metadata


def serve(runner: Runner) -> str:
    """Its address."""
    model: Any = SimpleNamespace(signature=runner.signature, config=SimpleNamespace(non_finite="allow"))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(json.dumps(model_metadata("m", ["1"], "test", runner.signature)).encode())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            work = InferWork(body, self.headers.get(HEADER_LENGTH), "m", "1")
            parsed = work.decode(model)
            assert parsed.feed is not None
            answer = work.encode(model, parsed, (), dict(runner.run(parsed.feed)))
            self._answer(answer.body, dict(answer.headers))

        def _answer(self, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(200)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None: ...  # noqa: A002

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}"
