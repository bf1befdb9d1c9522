"""A variant on another server: two endpoints on loopback, one in front of the other."""

from __future__ import annotations

import io
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lab.core.errors import ConfigError
from lab.serve.config import SecurityConfig, VariantConfig, check_threads, load_endpoint
from lab.serve.models import prepared
from tests.serve.models import SIZE, weights
from tests.serve.served import Reply, Served, serving, write_config

NPY, JSON, PATH = "application/x-npy", "application/json", "/endpoints/front/invocations"
X = np.random.default_rng(0).random((2, 3, SIZE, SIZE)).astype(np.float32)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def front(folder: Path, model_root: Path, remote: dict[str, Any], **variant: Any) -> Path:
    """The same model here and there, half of the traffic each."""
    variants = [{"name": "here", "model": str(model_root / "second")}, {"name": "there", "remote": remote, **variant}]
    return write_config(folder / "front.yaml", folder / "state", endpoint="front", variants=variants)


def ask(served: Served, target: str | None = None, body: bytes | None = None, kind: str = NPY, **more: str) -> Reply:
    headers = {"content-type": kind, "accept": NPY} | {name.replace("_", "-"): value for name, value in more.items()}
    if target:
        headers["x-amzn-sagemaker-target-variant"] = target
    return served.call("POST", PATH, npy(X) if body is None else body, headers)


@pytest.fixture(scope="module")
def through_oip(endpoint: Served, model_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    remote = {"url": f"{endpoint.url}/v2/models/shop/versions/two"}
    config = front(tmp_path_factory.mktemp("front"), model_root, remote, executor_threads=2)
    with serving(config) as served:
        yield served


def test_tensors_go_there_and_back(through_oip: Served) -> None:
    expected = X.reshape(2, -1) @ weights(1)
    seen: Counter[str] = Counter()
    for _ in range(40):
        reply = ask(through_oip)
        assert reply.status == 200, reply
        np.testing.assert_allclose(np.load(io.BytesIO(reply.body)), expected, rtol=1e-4, atol=1e-5)
        seen[reply.headers["x-amzn-invoked-production-variant"]] += 1
    assert set(seen) == {"here", "there"}
    rows = ask(through_oip, "there", json.dumps({"instances": X.tolist()}).encode(), JSON, accept=JSON)
    np.testing.assert_allclose(json.loads(rows.body)["predictions"], expected, rtol=1e-4, atol=1e-5)
    metadata = json.loads(through_oip.call("GET", "/v2/models/front/versions/there").body)
    assert metadata["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 3, SIZE, SIZE]}]
    assert metadata["platform"] == "remote"


def test_what_does_not_fit_never_leaves(through_oip: Served) -> None:
    reply = ask(through_oip, "there", npy(X[:, :2]))
    assert reply.status == 400
    assert b"wrong shape" in reply.body


def test_bodies_go_on_as_they_came(endpoint: Served, model_root: Path, tmp_path: Path) -> None:
    config = front(tmp_path, model_root, {"url": endpoint.url, "protocol": "sagemaker"})
    with serving(config) as served:
        reply = ask(served, "there")
        assert reply.status == 200, reply
        assert np.load(io.BytesIO(reply.body)).shape == (2, 4)
        refused = ask(served, "there", b"{", JSON)
        assert (refused.status, b"refused the request (400)" in refused.body) == (400, True)
        document = {
            "inputs": [{"name": "image", "datatype": "FP32", "shape": [2, 3, SIZE, SIZE], "data": X.ravel().tolist()}]
        }
        tensors = served.call(
            "POST", "/v2/models/front/versions/there/infer", json.dumps(document).encode(), {"content-type": JSON}
        )
        assert tensors.status == 415
        assert b"takes /invocations only" in tensors.body


def test_named_headers_go_on_and_no_others(model_root: Path, tmp_path: Path) -> None:
    """The client's named ones and the configured ones; not its credentials for this endpoint."""
    seen: list[dict[str, str]] = []

    class Recorder(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(b"")

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            seen.append({name.lower(): value for name, value in self.headers.items()})
            self._answer(b"{}")

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None: ...  # noqa: A002

    with ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        remote = {
            "url": f"http://127.0.0.1:{server.server_address[1]}", "protocol": "sagemaker",
            "headers": {"Authorization": "Bearer theirs"}, "forward": ["X-Trace"],
        }  # fmt: skip
        with serving(front(tmp_path, model_root, remote)) as served:
            assert ask(served, "there", x_trace="abc", x_other="no", authorization="Bearer ours").status == 200
        server.shutdown()
    (headers,) = seen
    assert (headers["x-trace"], headers["authorization"], headers["accept"]) == ("abc", "Bearer theirs", NPY)
    assert "x-other" not in headers


def test_a_server_that_is_gone_loses_its_traffic_until_it_is_back(model_root: Path, tmp_path: Path) -> None:
    behind = write_config(
        tmp_path / "b.yaml", tmp_path / "b", variants=[{"name": "v", "model": str(model_root / "second")}]
    )
    with serving(behind) as there:
        port = there.port
        config = front(tmp_path, model_root, {"url": f"{there.url}/v2/models/shop", "health_s": 0.1})
        with serving(config) as served:
            assert ask(served, "there").status == 200
            there.stop()
            pinned = ask(served, "there")
            assert pinned.status == 503
            assert pinned.headers["retry-after"] == "1"
            replies = [ask(served) for _ in range(20)]
            assert {reply.status for reply in replies} == {200}
            assert {reply.headers["x-amzn-invoked-production-variant"] for reply in replies} == {"here"}
            with serving(behind, f"port={port}"):
                ends = time.monotonic() + 20
                seen: set[str] = set()
                while "there" not in seen and time.monotonic() < ends:
                    reply = ask(served)
                    assert reply.status == 200
                    seen.add(reply.headers["x-amzn-invoked-production-variant"])
                assert "there" in seen


def test_a_server_that_is_too_slow_is_not_waited_for(model_root: Path, tmp_path: Path) -> None:
    slow = [{"name": "v", "model": str(model_root / "second"), "faults": {"latency_ms": 2000}}]
    with serving(write_config(tmp_path / "b.yaml", tmp_path / "b", variants=slow)) as there:
        config = front(tmp_path, model_root, {"url": f"{there.url}/v2/models/shop", "timeout_s": 0.3})
        with serving(config) as served:
            reply = ask(served, "there")
            assert reply.status == 504
            assert b"did not answer in time" in reply.body


def test_mistakes_are_told_before_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="either a model or steps, or is remote"):
        VariantConfig.model_validate({"name": "v", "model": "m", "remote": {"url": "http://x"}})
    with pytest.raises(ValueError, match="url"):
        VariantConfig.model_validate({"name": "v", "remote": {"url": "grpc://x"}})
    bad = VariantConfig.model_validate({"name": "v", "remote": {"url": "http://"}})
    with pytest.raises(ConfigError, match="no address of a model server"):
        prepared(bad, Path("x"), SecurityConfig(), tmp_path)
    many = {"name": "v", "remote": {"url": "http://x"}, "executor_threads": 64}
    assert check_threads(load_endpoint(write_config(tmp_path / "c.yaml", tmp_path, variants=[many]))) == []


def test_the_kserve_manifest_is_one(repo: Path, tmp_path: Path) -> None:
    """Structure of serving.kserve.io/v1alpha1 ServingRuntime as far as it is used; the cluster's schema is not here."""
    runtime, service, files = yaml.safe_load_all((repo / "docker" / "kserve.yaml").read_text())
    assert (runtime["apiVersion"], runtime["kind"]) == ("serving.kserve.io/v1alpha1", "ServingRuntime")
    assert set(runtime["spec"]) <= {
        "supportedModelFormats",
        "protocolVersions",
        "containers",
        "volumes",
        "multiModel",
    }
    assert runtime["spec"]["protocolVersions"] == ["v2"]
    for model_format in runtime["spec"]["supportedModelFormats"]:
        assert set(model_format) <= {"name", "version", "autoSelect", "priority"}
        assert isinstance(model_format["version"], str)
    (container,) = runtime["spec"]["containers"]
    assert container["name"] == "kserve-container"  # KServe puts the model's resources into the one of this name
    assert container["ports"] == [{"containerPort": 8080, "protocol": "TCP"}]
    assert container["readinessProbe"]["httpGet"] == {"path": "/v2/health/ready", "port": 8080}
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    configured = tmp_path / "endpoint.yaml"
    configured.write_text(files["data"]["endpoint.yaml"])
    overrides = [part.replace("{{.Name}}", "name") for part in container["args"] if "=" in part]
    config = load_endpoint(configured, overrides)  # what the container starts with is a configuration
    assert (config.endpoint, config.port, config.is_public) == ("name", 8080, True)
    assert [volume["name"] for volume in runtime["spec"]["volumes"]] == [m["name"] for m in container["volumeMounts"]]
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"]["name"] in [one["name"] for one in runtime["spec"]["supportedModelFormats"]]
