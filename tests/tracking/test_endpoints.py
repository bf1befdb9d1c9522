"""An endpoint in MLflow: told once, told again, told after the server was away; decisions move the aliases."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lab.artifacts.endpoint_log import DECISIONS_NAME, EndpointLog, HistoryWriter, Sample, hold_serving_lock
from lab.core.errors import ArtifactError, TrackingError
from lab.pipelines.endpoints import find, overview, sync
from lab.serve.guard.events import Decision, Kind
from lab.serve.guard.log import DecisionLog

BEGAN = 1_800_000_000.0
EXPERIMENT = "lab-endpoints"


def facts(version: int) -> dict[str, str]:
    return {
        "sha256": f"sha{version}", "model": "models:/shop@x", "registered": f"models:/shop/{version}",
        "engine": "tvm x86", "target": "x86", "folder": f"registry/shop-{version}",
    }  # fmt: skip


def write_samples(folder: Path, start: int, end: int) -> None:
    """One second each: the champion at 90 %, then at 50 %."""
    writer = HistoryWriter(folder)
    for second in range(start, end):
        share = 0.9 if second < 5 else 0.5
        for name, version, own, right in (("champion", 1, share, 8), ("challenger", 2, 1 - share, 9)):
            metrics = {"traffic/share": own, "traffic/requests_per_s": 10.0, "latency/request_p50_ms": 2.0 + second}
            counts = {"traffic/requests": 10.0, "errors/model": 1.0, "outcome/correct_sum": right,
                      "outcome/correct_count": 10}  # fmt: skip
            writer.add([Sample(name, facts(version), BEGAN + second, metrics, counts)])
    writer.close()


def decide(folder: Path, kind: Kind, second: int, **evidence: Any) -> None:
    log = DecisionLog(folder / DECISIONS_NAME)
    told = evidence and {"control": "champion", "alpha_per_guardrail": 0.001, **evidence}
    weights = {"champion": 0.0, "challenger": 1.0}
    log.save({"at": second}, "1", [Decision(kind, BEGAN + second, weights, f"{kind} at {second}", dict(told))])
    log.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_samples(tmp_path / "endpoints" / "shop", 0, 10)
    return tmp_path / "endpoints" / "shop"


@pytest.fixture
def registry(client: Any) -> Any:
    """Two versions of one registered model, the first the champion, the second the challenger."""
    run = client.create_run(client.create_experiment("training"))
    client.create_registered_model("shop")
    for alias, number in (("champion", "1"), ("challenger", "2")):
        client.create_model_version("shop", run.info.artifact_uri, run.info.run_id)
        client.set_registered_model_alias("shop", alias, number)
    return client


def runs_of(client: Any) -> dict[str, Any]:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    found = client.search_runs([experiment.experiment_id])
    by_name = {run.info.run_name: run for run in found}
    assert len(by_name) == len(found)
    return by_name


def aliases(client: Any) -> dict[str, str]:
    return {alias: str(version) for alias, version in client.get_registered_model("shop").aliases.items()}


def history(client: Any, run: Any, metric: str) -> list[tuple[int, int, float]]:
    found = client.get_metric_history(run.info.run_id, metric)
    return sorted((m.step, m.timestamp, m.value) for m in found)


def test_an_endpoint_is_a_run_and_each_variant_a_child(folder: Path, uri: str, client: Any) -> None:
    result = sync(EndpointLog(folder), uri)
    assert (result.outcome, result.num_samples, result.num_decisions) == ("uploaded", 20, 0)
    runs = runs_of(client)
    assert set(runs) == {"shop", "champion of shop", "challenger of shop"}
    child = runs["challenger of shop"]
    assert child.data.tags["mlflow.parentRunId"] == runs["shop"].info.run_id == result.run_id
    assert child.data.params["variant"] == "challenger"
    assert child.data.params["registered"] == "models:/shop/2"
    shares = [(s, int((BEGAN + s) * 1e3), v) for s, v in enumerate([1 - 0.9] * 5 + [0.5] * 5)]
    assert history(client, child, "traffic/share") == shares
    assert history(client, runs["shop"], "share/challenger") == shares
    assert history(client, runs["shop"], "traffic/requests_per_s")[3][2] == 20.0
    assert child.data.metrics["traffic/requests_total"] == 100
    assert child.data.metrics["errors/model_share_of_all"] == pytest.approx(0.1)
    assert child.data.metrics["outcome/correct_mean"] == pytest.approx(0.9)
    assert "outcome/correct_sum_total" not in child.data.metrics
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert child.info.end_time == int((BEGAN + 9) * 1e3)
    assert "| champion | models:/shop/1 | 50.0% | 100 | 10 |" in runs["shop"].data.tags["mlflow.note.content"]


def test_telling_again_changes_nothing_and_goes_on_where_it_stood(folder: Path, uri: str, client: Any) -> None:
    first = sync(EndpointLog(folder), uri)
    before = {name: (run.data.metrics, run.data.tags) for name, run in runs_of(client).items()}
    again = sync(EndpointLog(folder), uri)
    assert (again.outcome, again.run_id) == ("complete", first.run_id)
    assert {name: (run.data.metrics, run.data.tags) for name, run in runs_of(client).items()} == before

    held = hold_serving_lock(folder)
    write_samples(folder, 10, 12)
    more = sync(EndpointLog(folder), uri)
    assert (more.num_samples, more.run_id) == (4, first.run_id)
    runs = runs_of(client)
    assert len(runs) == 3
    assert {run.info.status for run in runs.values()} == {"RUNNING"}
    held.close()
    sync(EndpointLog(folder), uri)
    runs = runs_of(client)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert [step for step, _, _ in history(client, runs["champion of shop"], "traffic/share")] == list(range(12))


def test_a_transfer_that_was_cut_short_is_repeated_without_a_trace(
    folder: Path, uri: str, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lab.tracking.endpoint_runs import EndpointRuns

    def fail(*_: object) -> None:
        raise ConnectionResetError("the server went away")

    with monkeypatch.context() as patch:
        patch.setattr(EndpointRuns, "set_synced", fail)
        result = sync(EndpointLog(folder), uri)
    assert (result.outcome, result.reason) == ("failed", "the server went away")
    assert sync(EndpointLog(folder), uri).num_samples == 20
    runs = runs_of(client)
    assert len(runs) == 3
    assert len(history(client, runs["champion of shop"], "traffic/share")) == 10


def test_a_promotion_and_a_rollback_reach_run_variant_and_model(folder: Path, uri: str, registry: Any) -> None:
    decide(folder, "set_weights", 1)
    metrics = {"correct": {"improvement": {"estimate": 0.1, "low": 0.05, "high": 0.15}}}
    decide(folder, "promote", 6, variant="challenger", metrics=metrics)
    sync(EndpointLog(folder), uri)
    assert aliases(registry) == {"champion": "2", "challenger": "1"}
    runs = runs_of(registry)
    tags = runs["shop"].data.tags
    assert tags["decision.0002"] == "2027-01-15T08:00:06Z promoted: promote at 6"
    assert "decision.0001" not in tags
    assert json.loads(tags["decision.0002.evidence"])["improvement"]["correct"]["low"] == 0.05
    assert runs["challenger of shop"].data.tags["lab.outcome"] == "promoted"
    version = registry.get_model_version("shop", "2")
    assert version.tags["lab.endpoint.shop.outcome"] == "promoted"
    assert version.tags["lab.endpoint.shop.run"] == runs["challenger of shop"].info.run_id
    assert json.loads(version.tags["lab.endpoint.shop.outcome_evidence"])["fires_at"] == pytest.approx(1000)
    names = [file.path for file in registry.list_artifacts(runs["shop"].info.run_id)]
    assert names == ["decisions.json"]

    # A person moves the alias back: telling the same history again must not undo that.
    registry.set_registered_model_alias("shop", "champion", "1")
    decide(folder, "rollback", 9, variant="champion", control="challenger", broken_guardrails={"model_error": {}})
    assert sync(EndpointLog(folder), uri).num_decisions == 1
    assert aliases(registry) == {"champion": "1", "challenger": "1"}
    assert registry.get_model_version("shop", "1").tags["lab.endpoint.shop.outcome"] == "rolled back"


def test_a_model_version_that_is_gone_holds_nothing_up(
    folder: Path, uri: str, registry: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.delete_model_version("shop", "2")
    decide(folder, "promote", 6, variant="challenger")
    assert sync(EndpointLog(folder), uri).outcome == "uploaded"
    assert "model shop, version 2 takes no decision" in capsys.readouterr().err
    assert aliases(registry)["champion"] == "1"
    assert sync(EndpointLog(folder), uri).outcome == "complete"


def test_a_server_that_is_down_misses_nothing(folder: Path, uri: str, client: Any) -> None:
    with pytest.raises(TrackingError, match="cannot be reached"):
        sync(EndpointLog(folder), "http://127.0.0.1:9")
    assert sync(EndpointLog(folder), uri).num_samples == 20


def test_another_server_is_told_everything(folder: Path, uri: str, migrated_db: Path, tmp_path: Path) -> None:
    sync(EndpointLog(folder), uri)
    shutil.copy(migrated_db, tmp_path / "other.db")
    assert sync(EndpointLog(folder), f"sqlite:///{tmp_path}/other.db").num_samples == 20
    assert sync(EndpointLog(folder), uri).outcome == "complete"


def test_endpoints_are_found_by_name(folder: Path) -> None:
    assert [log.name for log in find(folder.parent)] == ["shop"]
    with pytest.raises(ArtifactError, match="no history of endpoint 'shoe'"):
        find(folder.parent, ["shoe"])
    decide(folder, "hold", 3)
    (row,) = overview(folder.parent)
    assert (row["name"], row["served"], row["models"], row["requests"], row["decisions"]) == ("shop", False, 2, 200, 1)
    assert row["last_sample"] == "2027-01-15T08:00:09Z"
