"""Metrics, logs, capture, shadows, feedback, the live page: what is told of requests is what happened."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.serve.models import SIZE
from tests.serve.served import Served, serving, write_config

PATH = "/endpoints/shop/invocations"
NUM_REQUESTS = 60


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


X = np.random.default_rng(0).random((1, 3, SIZE, SIZE)).astype(np.float32)


def until(found: Callable[[], Any], timeout_s: float = 10.0) -> Any:
    ends = time.monotonic() + timeout_s
    while not (value := found()) and time.monotonic() < ends:
        time.sleep(0.05)
    return value


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(scope="module")
def watched(model_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Path]]:
    """After NUM_REQUESTS answered and one refused; one variant, shadowed by its copy and by another model."""
    folder = tmp_path_factory.mktemp("watched")
    config = write_config(
        folder / "c.yaml", folder,
        log={"state_dir": str(folder), "access_log": str(folder / "access.jsonl")},
        variants=[
            {"name": "one", "model": str(model_root / "first")},
            {"name": "same", "model": str(model_root / "first"), "shadow": True},
            {"name": "other", "model": str(model_root / "second"), "shadow": True},
        ],
        data_capture={"enabled": True, "sampling_percentage": 100, "destination": str(folder / "capture")},
        guard={"metrics": {"correct": {"role": "primary"}}}, metrics_compat="sagemaker",
    )  # fmt: skip
    with serving(config) as served:
        for number in range(NUM_REQUESTS):
            headers = {"content-type": "application/x-npy", "x-session-id": f"user-{number % 7}"}
            headers |= {"x-amzn-sagemaker-inference-id": "mine"} if number == 0 else {}
            assert served.call("POST", PATH, npy(X), headers).status == 200
        assert served.call("POST", PATH, npy(X[:, :1]), {"content-type": "application/x-npy"}).status == 400
        time.sleep(0.3)
        yield served, folder


def samples(served: Served) -> dict[str, dict[tuple[str, ...], float]]:
    """{sample name: {sorted label values: value}}."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(served.call("GET", "/metrics").body.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(v for _, v in sorted(sample.labels.items()))] = sample.value
    return found


def test_metrics_count_what_happened(watched: tuple[Served, Path]) -> None:
    found = samples(watched[0])
    assert found["inference_requests_total"]["200", "shop", "sagemaker", "one"] == NUM_REQUESTS
    assert found["inference_requests_total"]["400", "shop", "sagemaker", "one"] == 1
    assert found["inference_assignments_total"]["shop", "sticky", "one"] == NUM_REQUESTS
    for stage in ("request", "queue", "execute", "overhead"):
        assert found[f"inference_{stage}_duration_seconds_count"]["shop", "one"] == NUM_REQUESTS + 1
    request, execute, overhead = (
        found[f"inference_{stage}_duration_seconds_sum"]["shop", "one"] for stage in ("request", "execute", "overhead")
    )
    assert execute + overhead == pytest.approx(request, rel=1e-3)
    assert found["inference_batch_size_sum"]["shop", "one"] == NUM_REQUESTS
    assert found["inference_in_flight"]["shop", "one"] == 0
    assert found["inference_variant_weight"]["shop", "one"] == 1
    assert found["Invocations_total"]["shop", "one"] == NUM_REQUESTS + 1
    assert found["Invocation4XXErrors_total"]["shop", "one"] == 1


def test_shadows_are_compared_and_never_answer(watched: tuple[Served, Path]) -> None:
    served, folder = watched
    compared = until(lambda: [r for r in lines(folder / "shop" / "shadow.jsonl") if r["shadow"] == "same"])
    assert all(record["same"] and record["max_abs"] < 1e-5 and record["kl"] < 1e-6 for record in compared)
    different = [r for r in lines(folder / "shop" / "shadow.jsonl") if r["shadow"] == "other"]
    assert different
    assert not any(record["same"] for record in different)
    found = samples(served)
    ran = found["inference_shadow_compared_total"]["shop", "other"]
    assert ran == found["inference_shadow_mismatch_total"]["shop", "other"] > 0
    assert ran + found["inference_shadow_dropped_total"]["shop", "other"] == NUM_REQUESTS
    assert ("200", "shop", "sagemaker", "other") not in found["inference_requests_total"]


def test_the_access_log_has_a_line_per_request(watched: tuple[Served, Path]) -> None:
    _, folder = watched
    found = until(lambda: [r for r in lines(folder / "access.jsonl") if r["path"] == PATH and r["status"] == 200])
    assert len(found) == NUM_REQUESTS
    assert {r["served"] for r in found} == {"one"}
    assert len({r["unit"] for r in found}) == 7
    assert all(r["ms"] >= r["execute_ms"] >= 0 and r["bytes_in"] == len(npy(X)) for r in found)


def test_capture_has_sagemakers_layout(watched: tuple[Served, Path]) -> None:
    _, folder = watched
    files = list((folder / "capture" / "shop" / "one").glob("[0-9]*/[0-9]*/[0-9]*/[0-9]*/*.jsonl"))
    events = [event for file in files for event in lines(file)]
    assert len(events) == NUM_REQUESTS
    given, answered = events[0]["captureData"]["endpointInput"], events[0]["captureData"]["endpointOutput"]
    assert (given["mode"], given["encoding"], given["observedContentType"]) == ("INPUT", "BASE64", "application/x-npy")
    import base64

    assert base64.b64decode(given["data"]) == npy(X)
    assert (answered["mode"], answered["encoding"]) == ("OUTPUT", "JSON")
    assert len(json.loads(answered["data"])["predictions"][0]) == 4
    assert events[0]["eventMetadata"]["inferenceId"] == "mine"
    assert events[0]["eventVersion"] == "0"


def test_outcomes_find_their_request(watched: tuple[Served, Path]) -> None:
    served, _ = watched
    headers = {"content-type": "application/x-npy", "x-session-id": "user-1"}
    inference_id = served.call("POST", PATH, npy(X), headers).headers["x-lab-inference-id"]
    for name in (inference_id, "mine"):
        outcome = json.dumps({"inference_id": name, "metric": "correct", "value": 1}).encode()
        reply = served.call("POST", "/endpoints/shop/feedback", outcome)
        assert (reply.status, json.loads(reply.body)) == (202, {"variant": "one", "used": True})
    forged = inference_id.replace("one", "two", 1)
    outcome = json.dumps({"inference_id": forged, "metric": "correct", "value": 1}).encode()
    assert served.call("POST", "/endpoints/shop/feedback", outcome).status == 400
    outcome = json.dumps({"inference_id": inference_id, "metric": "other", "value": 1}).encode()
    assert served.call("POST", "/endpoints/shop/feedback", outcome).status == 400
    assert samples(served)["inference_feedback_total"]["shop", "correct"] == 2


def test_the_state_is_what_the_page_shows(watched: tuple[Served, Path]) -> None:
    state = json.loads(watched[0].call("GET", "/state").body)
    one = state["endpoints"][0]["variants"][0]
    assert (one["name"], one["share"], one["is_shadow"]) == ("one", 1.0, False)
    assert one["requests"] >= NUM_REQUESTS + 1
    assert one["errors"] == 0
    assert state["endpoints"][0]["guard"]["control"] == "one"


def test_pages_need_nothing_from_elsewhere(watched: tuple[Served, Path]) -> None:
    for path in ("/ui", "/docs"):
        reply = watched[0].call("GET", path)
        assert reply.status == 200
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        assert b"http://" not in reply.body.replace(b"http://www.w3.org/2000/svg", b"")
        assert b"https://" not in reply.body
    document = json.loads(watched[0].call("GET", "/openapi.json").body)
    assert document["openapi"] == "3.1.0"
    assert "/endpoints/{name}/invocations" in document["paths"]
    for path, methods in document["paths"].items():
        for method in methods:
            concrete = path.replace("{name}", "shop").replace("{version}", "one")
            assert watched[0].call(method.upper(), concrete).status not in (404, 405), path
