"""The two callees: an endpoint over HTTP, and a model of this process by the command line."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from typer.testing import CliRunner

from lab.artifacts.manifest import Manifest
from lab.cli.main import app
from lab.core.errors import ConfigError, DataError
from lab.core.seeding import stream
from lab.core.signature import Signature, TensorSpec
from lab.serve.transform.config import TransformConfig
from lab.serve.transform.remote import RemoteFailedError, RemoteModel
from tests.compile.graphs import residual_network


class Handler(BaseHTTPRequestHandler):
    statuses: list[int]
    seen: list[tuple[bytes, str | None, str | None]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append((body, self.headers["Content-Type"], self.headers["Authorization"]))
        self.send_response(self.statuses.pop(0) if self.statuses else 200)
        self.send_header("Content-Type", "text/csv")
        self.end_headers()
        self.wfile.write(b"answer")

    def log_message(self, *args: Any) -> None:
        """Nothing on the tests' output."""


@pytest.fixture
def server() -> Iterator[tuple[str, type[Handler]]]:
    handler = type("Fresh", (Handler,), {"statuses": [], "seen": []})
    http = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_address[1]}/invocations", handler
    http.shutdown()
    http.server_close()
    thread.join()


def test_an_endpoint_is_called_with_type_and_token(server: tuple[str, type[Handler]]) -> None:
    url, handler = server
    reply = RemoteModel(url, TransformConfig(content_type="text/csv"), token="secret")(b"1,2")
    assert (reply.body, reply.content_type) == (b"answer", "text/csv")
    assert handler.seen == [(b"1,2", "text/csv", "Bearer secret")]


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, DataError), (413, DataError), (424, DataError), (429, RemoteFailedError), (503, RemoteFailedError)],
)
def test_refusals_and_failures_are_told_apart(
    server: tuple[str, type[Handler]], status: int, error: type[Exception]
) -> None:
    url, handler = server
    handler.statuses.append(status)
    with pytest.raises(error, match=str(status)):
        RemoteModel(url, TransformConfig())(b"{}")


def test_addresses() -> None:
    with pytest.raises(ConfigError, match="address"):
        RemoteModel("file:///etc/passwd", TransformConfig())
    with pytest.raises(RemoteFailedError, match="cannot be reached"):
        RemoteModel("http://127.0.0.1:9/", TransformConfig())(b"")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX model of no task: it takes tensors."""
    folder = tmp_path_factory.mktemp("transform") / "export"
    folder.mkdir()
    path = residual_network(folder / "model.onnx", channels=3, num_classes=7)
    session = onnxruntime.InferenceSession(str(path))
    specs = [
        tuple(TensorSpec(one.name, "float32", tuple(one.shape)) for one in ends)
        for ends in (session.get_inputs(), session.get_outputs())
    ]
    manifest = Manifest(kind="onnx", name="network", signature=Signature(*specs))
    manifest.with_files(folder, ["model.onnx"]).save(folder)
    return folder


def test_the_command_joins_a_models_answers_to_json_lines(model: Path, tmp_path: Path) -> None:
    spec = Manifest.load(model).signature.inputs[0]
    x = stream(0, "transform").standard_normal((3, *spec.shape[1:])).astype(np.float32)
    lines = [json.dumps({"id": n, "x": x[n].tolist()}) for n in range(3)]
    source = tmp_path / "in" / "three.jsonl"
    source.parent.mkdir()
    source.write_text("\n".join(lines))
    (tmp_path / "in" / "zz_bad.jsonl").write_text('{"id": 4}\n')
    kind = "application/jsonlines"
    arguments = ["transform", str(model), str(source.parent), "-o", str(tmp_path / "out"), "--content-type", kind,
                 "--accept", kind, "--input-filter", "$.x", "--join", "--output-filter", "$['id','SageMakerOutput']",
                 "--threads", "1"]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 3, done.output
    records = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [(r["num_records"], bool(r["error"])) for r in records] == [(3, False), (0, True)]
    out = [json.loads(line) for line in (tmp_path / "out" / "three.jsonl.out").read_text().splitlines()]
    session = onnxruntime.InferenceSession(str(model / "model.onnx"))
    expected = session.run(None, {spec.name: x})[0]
    assert [row["id"] for row in out] == [0, 1, 2]
    found = np.array([row["SageMakerOutput"]["prediction"] for row in out])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert not (tmp_path / "out" / "zz_bad.jsonl.out").exists()


def test_the_command_refuses_options_that_do_not_fit(model: Path, tmp_path: Path) -> None:
    arguments = ["transform", str(model), str(tmp_path), "-o", str(tmp_path), "--content-type", "image/png", "--join"]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, ConfigError)
    assert "CSV and JSON" in str(done.exception)
