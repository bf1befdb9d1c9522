"""What a served endpoint leaves behind for MLflow, and the way from the registry to the endpoint and back."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab.artifacts.endpoint_log import EndpointLog
from lab.core.errors import ArtifactError
from lab.serve.history import evidence_metrics, traffic_metrics
from lab.serve.slab import Meter, Slab
from tests.serve.models import SIZE, classifier
from tests.serve.served import Served, serving, write_config

PATH = "/endpoints/shop/invocations"


def ask(served: Served, count: int, variant: str = "") -> list[str]:
    """Send so many requests; returns their inference ids."""
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((1, 3, SIZE, SIZE), np.float32))
    headers = {"content-type": "application/x-npy"}
    headers |= {"x-amzn-sagemaker-target-variant": variant} if variant else {}
    replies = [served.call("POST", PATH, buffer.getvalue(), headers) for _ in range(count)]
    assert {reply.status for reply in replies} == {200}
    return [reply.headers["x-lab-inference-id"] for reply in replies]


def sampled(folder: Path) -> EndpointLog:
    """The history, as soon as the endpoint has begun it."""
    ends = time.monotonic() + 20
    while time.monotonic() < ends:
        with contextlib.suppress(ArtifactError):
            if EndpointLog(folder).points():
                return EndpointLog(folder)
        time.sleep(0.02)
    raise AssertionError(f"no history in {folder}")


def post(served: Served, path: str, document: Any) -> None:
    reply = served.call("POST", path, json.dumps(document).encode(), {"content-type": "application/json"})
    assert reply.status in (200, 202), reply.body


def test_weights_requests_and_outcomes_are_kept(model_root: Path, tmp_path: Path) -> None:
    config = write_config(
        tmp_path / "c.yaml", tmp_path / "state",
        variants=[
            {"name": "one", "model": str(model_root / "first"), "weight": 0.9},
            {"name": "two", "model": str(model_root / "second"), "weight": 0.1},
        ],
        guard={"control": "one", "metrics": {"correct": {"role": "primary"}}},
        tracking={"every_s": 1},
    )  # fmt: skip
    with serving(config) as served:
        ids = ask(served, 40)
        for place, inference_id in enumerate(ids):
            feedback = {"inference_id": inference_id, "metric": "correct", "value": place % 2}
            post(served, "/endpoints/shop/feedback", feedback)
        log = sampled(tmp_path / "state" / "shop")
        assert log.is_served()
        post(served, "/endpoints/shop/weights", {"one": 0.25, "two": 0.75})
        ask(served, 5, "two")
        assert served.stop() == 0
    assert not log.is_served()
    latest = {record.name: log.latest()[record.id].metrics for record in log.variants()}
    assert {name: m["traffic/share"] for name, m in latest.items()} == {"one": 0.25, "two": 0.75}
    assert sum(m["traffic/requests_total"] for m in latest.values()) == 45
    assert latest["two"]["traffic/requests_total"] >= 5
    assert sum(m["outcome/correct_count_total"] for m in latest.values() if "outcome/correct_count_total" in m) == 40
    assert sum(m.get("outcome/correct_sum_total", 0) for m in latest.values()) == 20
    first = log.points()[0]
    assert (first.variant, first.metrics["traffic/share"]) == (log.variants()[0].id, 0.9)
    assert [d["reason"] for d in log.decisions()] == ["a person set the weights"]
    timed = [p.metrics for p in log.points() if "latency/execute_p50_ms" in p.metrics]
    assert timed
    assert all(m["latency/execute_p50_ms"] <= m["latency/request_p99_ms"] for m in timed)
    assert log.variants()[0].facts["engine"] == "onnxruntime"


def test_a_killed_endpoint_keeps_what_it_had_sampled(model_root: Path, tmp_path: Path) -> None:
    variants = [{"name": "one", "model": str(model_root / "first")}]
    config = write_config(tmp_path / "c.yaml", tmp_path / "state", variants=variants, tracking={"every_s": 1})
    with serving(config) as served:
        ask(served, 10)
        log = sampled(tmp_path / "state" / "shop")
        ended = served.process.pid
        while not any(point.metrics["traffic/requests_total"] == 10 for point in log.points()):
            assert served.process.poll() is None
        os.kill(ended, signal.SIGKILL)
        served.process.wait(10)
        assert not log.is_served()


def test_counts_become_rates() -> None:
    slab = Slab.create(1)
    meter = Meter(slab, 0, 1)
    for code, times in ((200, 6), (424, 2), (400, 1), (503, 1)):
        for _ in range(times):
            meter.request("sagemaker", code)
    meter.add("rejected.queue_full")
    meter.batch(4)
    rates, counts = traffic_metrics(slab.counters.sum(axis=0)[1], 5.0)
    assert rates == {"traffic/requests_per_s": 2.0, "errors/model_rate": 0.3, "errors/client_rate": 0.1,
                     "traffic/mean_batch": 4.0}  # fmt: skip
    assert counts == {"traffic/requests": 10, "errors/model": 3, "errors/client": 1, "errors/rejected": 1}
    assert traffic_metrics(slab.counters.sum(axis=0)[2], 0.0)[0] == {}


def test_evidence_becomes_metrics() -> None:
    summary = {
        "guardrails": {"model_error": {"e_value": 12.5}},
        "metrics": {"correct": {"improvement": {"estimate": 0.1, "low": None, "high": 0.3}}, "late": {}},
        "sample_ratio": {"p_value": 0.4},
    }
    assert evidence_metrics(summary) == {
        "evidence/model_error_e_value": 12.5, "evidence/correct_improvement": 0.1,
        "evidence/correct_improvement_high": 0.3, "evidence/sample_ratio_p_value": 0.4,
    }  # fmt: skip
    assert evidence_metrics({}) == {}


# MLflow 3.17 still uses this loader of SQLAlchemy, which 2.1 deprecates.
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")
@pytest.mark.slow  # MLflow makes a database and is imported by three processes
def test_registered_models_are_served_by_alias_and_told_of_their_promotion(tmp_path: Path) -> None:
    from lab.tracking.server import connect

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = connect(uri)
    experiment = client.create_experiment("e", artifact_location=(tmp_path / "artifacts").as_uri())
    client.create_registered_model("shop")
    for version, alias in (("1", "champion"), ("2", "challenger")):
        run = client.create_run(experiment)
        for file in classifier(tmp_path / alias, seed=int(version)).iterdir():
            client.log_artifact(run.info.run_id, str(file), "model")
        client.create_model_version("shop", f"{run.info.artifact_uri}/model", run.info.run_id)
        client.set_registered_model_alias("shop", alias, version)
    config = write_config(
        tmp_path / "c.yaml", tmp_path / "state",
        variants=[
            {"name": "old", "model": "models:/shop@champion", "weight": 1.0},
            {"name": "new", "model": "models:/shop@challenger", "weight": 0.0},
        ],
        guard={"control": "old", "rollout": {"kind": "all_at_once", "bake_s": 0.5}},
        tracking={"enabled": True, "every_s": 1, "uri": uri},
    )  # fmt: skip
    with serving(config) as served:
        ask(served, 20)
        post(served, "/endpoints/shop/rollout", {"variant": "new"})
        served.wait_for_line("promote")
        ask(served, 20)
        assert served.stop(70) == 0
    aliases = {alias: str(version) for alias, version in client.get_registered_model("shop").aliases.items()}
    assert aliases == {"champion": "2", "challenger": "1"}
    runs = {
        run.info.run_name: run
        for run in client.search_runs([client.get_experiment_by_name("lab-endpoints").experiment_id])
    }
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert runs["new of shop"].data.tags["lab.outcome"] == "promoted"
    assert runs["new of shop"].data.params["registered"] == "models:/shop/2"
    total = sum(run.data.metrics.get("traffic/requests_total", 0) for run in runs.values())
    assert total == 40
    assert client.get_model_version("shop", "2").tags["lab.endpoint.shop.outcome"] == "promoted"
