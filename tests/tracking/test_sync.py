"""Uploading what was left behind: the same result as an undisturbed run, wherever the disturbance struck."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.artifacts.manifest import Manifest
from lab.artifacts.rundir import RunDir
from lab.core.signature import Signature, TensorSpec
from lab.tracking import MlflowTracker, child, pending_runs, sync_run, sync_runs
from lab.tracking.offline import Spool
from lab.tracking.server import connect

Start = Callable[..., MlflowTracker]

DOWN = "http://127.0.0.1:9"  # the discard port: nothing listens there
SIGNATURE = Signature(inputs=(TensorSpec("x", "float32", ("batch", 7)),), outputs=(TensorSpec("y", "float32", (3,)),))


def track_everything(tracker: MlflowTracker, run_folder: Path) -> None:
    """One of every operation, with a child."""
    tracker.log_params({"task": "classification", "model": {"name": "resnet20"}})
    for step in range(1, 6):
        tracker.log_metrics({"loss": 1 / step}, step=step)
    tracker.set_tags({"colour": "blue"})
    tracker.log_artifact(run_folder / "config.yaml")
    tracker.log_dataset({"name": "tiny", "digest": "d" * 64})
    manifest = Manifest(kind="run", name="first", signature=SIGNATURE).with_files(run_folder, ["config.yaml"])
    manifest.save(run_folder)
    tracker.register_model(name="tiny", folder=run_folder, manifest=manifest)
    nested = child(tracker, "compile x86", {"lab.step": "compile"})
    nested.log_metrics({"latency_ms": 2.5})
    nested.finish()
    tracker.finish()


def everything_in(uri: str) -> dict[str, Any]:
    """All that a server knows, without ids and times."""
    client = connect(uri)
    experiment = client.get_experiment_by_name("lab-classification")
    runs = {run.info.run_id: run for run in client.search_runs([experiment.experiment_id])}
    found: dict[str, Any] = {}
    for run in runs.values():
        parent = run.data.tags.get("mlflow.parentRunId")
        assert run.info.run_name not in found, "a run was made twice"
        found[run.info.run_name] = {
            "status": run.info.status,
            "params": run.data.params,
            "metrics": {
                key: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, key)]
                for key in run.data.metrics
            },
            "tags": {key: value for key, value in run.data.tags.items() if key in ("colour", "lab.step")},
            "parent": runs[parent].info.run_name if parent else None,
            "files": sorted(f.path for f in client.list_artifacts(run.info.run_id)),
            "datasets": [item.dataset.name for item in run.inputs.dataset_inputs],
            "models": [str(v.version) for v in client.search_model_versions(f"run_id = '{run.info.run_id}'")],
        }
    return found


EXPECTED = {
    "first": {
        "status": "FINISHED",
        "params": {"task": "classification", "model.name": "resnet20"},
        "metrics": {"loss": [(step, 1 / step) for step in range(1, 6)]},
        "tags": {"colour": "blue"},
        "parent": None,
        "files": ["config.yaml", "model"],
        "datasets": ["tiny"],
        "models": ["1"],
    },
    "compile x86": {
        "status": "FINISHED",
        "params": {"task": "classification", "model.name": "resnet20"},
        "metrics": {"latency_ms": [(0, 2.5)]},
        "tags": {"lab.step": "compile"},
        "parent": "first",
        "files": [],
        "datasets": [],
        "models": [],
    },
}


def test_an_undisturbed_run_is_what_the_others_are_compared_with(start: Start, uri: str, run_folder: Path) -> None:
    track_everything(start(uri), run_folder)
    assert everything_in(uri) == EXPECTED
    assert pending_runs(run_folder.parent.parent) == []


def test_an_offline_run_is_uploaded_whole_and_once(
    start: Start, uri: str, client: Any, run_folder: Path, tmp_path: Path
) -> None:
    tracker = start(DOWN)
    RunDir(run_folder).update_status(mlflow_run_id=tracker.run_id)
    track_everything(tracker, run_folder)
    assert pending_runs(tmp_path / "runs") == [run_folder]

    first = sync_runs(tmp_path / "runs", uri)
    assert [(s.run_name, s.outcome) for s in first] == [("first", "uploaded"), ("compile x86", "uploaded")]
    assert everything_in(uri) == EXPECTED
    run = client.get_run(first[0].run_id)
    written = [op.time_ms for op in tracker.spool.operations()]
    assert (run.info.start_time, run.info.end_time) == (written[0], written[-1])
    assert RunDir(run_folder).read_status()["mlflow_run_id"] == first[0].run_id

    second = sync_runs(tmp_path / "runs", uri)
    assert [(s.outcome, s.num_sent) for s in second] == [("complete", 0), ("complete", 0)]
    assert everything_in(uri) == EXPECTED
    assert pending_runs(tmp_path / "runs") == []


class Flaky:
    """A client whose `at`-th call fails, `before` or `after` the server has done its work; later calls fail too."""

    def __init__(self, client: Any, at: int, when: str) -> None:
        self.client, self.at, self.when = client, at, when
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            if len(self.calls) < self.at:
                return real(*args, **kwargs)
            if len(self.calls) == self.at and self.when == "after":
                real(*args, **kwargs)
            raise ConnectionError("the server went away")

        return call


@pytest.mark.parametrize("every_call", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_server_lost_at_any_call_changes_nothing(
    every_call: bool,
    start: Start,
    uri: str,
    run_folder: Path,
    migrated_db: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracker = start(DOWN)
    track_everything(tracker, run_folder)
    counted = Flaky(connect(uri), at=10**6, when="before")
    monkeypatch.setattr("lab.tracking.sync.connect", lambda *_: counted)
    sync_run(run_folder, uri)
    calls = counted.calls
    writing = sorted(calls.index(name) + 1 for name in set(calls) if name.startswith(("create", "log", "set")))
    assert len(writing) == 8
    # The harder half is the answer that got lost: the server has done it, and the journal does not know.
    cases = [(at, "after") for at in writing]
    if every_call:
        cases = [(at, when) for at in range(1, len(calls) + 1) for when in ("before", "after")]
    pristine = tmp_path / "pristine"
    shutil.copytree(run_folder, pristine)
    for state in pristine.rglob("state.json"):
        state.unlink()
    for at, when in cases:
        folder, database = tmp_path / f"runs{at}{when}" / "run", tmp_path / f"server{at}{when}" / "mlflow.db"
        shutil.copytree(pristine, folder)
        database.parent.mkdir()
        shutil.copy(migrated_db, database)
        fresh = f"sqlite:///{database}"
        flaky = Flaky(connect(fresh), at=at, when=when)
        monkeypatch.setattr("lab.tracking.sync.connect", lambda *_, flaky=flaky: flaky)
        assert "failed" in {synced.outcome for synced in sync_run(folder, fresh)}
        monkeypatch.setattr("lab.tracking.sync.connect", connect)
        assert "uploaded" in {synced.outcome for synced in sync_run(folder, fresh)}
        assert everything_in(fresh) == EXPECTED, f"{calls[at - 1]}, {when}"


def test_a_server_that_dies_in_the_middle_of_a_run(
    start: Start, uri: str, run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lab.tracking.uploader.connect", lambda _: Flaky(connect(uri), at=6, when="after"))
    tracker = start(uri)
    monkeypatch.setattr("lab.tracking.uploader.connect", _refuse)
    mlflow_id = tracker.run_id
    assert not mlflow_id.startswith("local-")
    track_everything(tracker, run_folder)
    assert tracker.run_id == mlflow_id
    assert capsys.readouterr().err.count("the run goes on") == 2  # once for the run, once for its child
    sync_run(run_folder, uri)
    assert everything_in(uri) == EXPECTED


def _refuse(uri: str) -> Any:
    raise ConnectionError("still away")


def test_a_server_that_comes_back_gets_everything(
    start: Start, uri: str, run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lab.tracking.uploader.connect", _refuse)
    tracker = start(uri)
    tracker.log_metrics({"loss": 0.5}, step=1)
    assert tracker.run_id.startswith("local-")
    monkeypatch.setattr("lab.tracking.uploader.connect", connect)
    assert tracker.flush()
    assert not tracker.run_id.startswith("local-")
    assert "the server is back" in capsys.readouterr().err
    tracker.finish()
    assert everything_in(uri)["first"]["metrics"] == {"loss": [(1, 0.5)]}
    assert pending_runs(run_folder.parent.parent) == []


def test_a_killed_process_leaves_a_run_marked_killed(start: Start, uri: str, client: Any, run_folder: Path) -> None:
    tracker = start(DOWN)
    tracker.log_metrics({"loss": 0.5}, step=1)
    tracker.spool.close()  # what the kernel does to a killed process: no finish, and the lock is free
    (synced,) = sync_run(run_folder, uri)
    run = client.get_run(synced.run_id)
    assert (run.info.status, run.data.metrics) == ("KILLED", {"loss": 0.5})
    assert run.info.end_time == list(tracker.spool.operations())[-1].time_ms
    assert [s.outcome for s in sync_run(run_folder, uri)] == ["complete"]

    resumed = start(uri, run_id=tracker.spool.local_id)  # the id that was stored while offline
    assert resumed.run_id == synced.run_id
    resumed.log_metrics({"loss": 0.25}, step=2)
    resumed.finish()
    assert client.get_run(synced.run_id).info.status == "FINISHED"
    tracker._is_finished = True


def test_a_run_in_progress_is_left_alone(start: Start, uri: str, run_folder: Path) -> None:
    tracker = start(DOWN)
    assert [s.outcome for s in sync_run(run_folder, uri)] == ["in use"]
    tracker.finish()


def test_a_child_online_uploads_its_offline_parent_first(start: Start, uri: str, run_folder: Path) -> None:
    parent = start(DOWN)
    parent.log_params({"task": "classification"})
    parent.finish()
    start(uri, name="compile arm", parent_run_id=parent.run_id).finish()
    found = everything_in(uri)
    assert found["compile arm"]["parent"] == "first"
    assert found["compile arm"]["params"] == {"task": "classification"}
    assert found["first"]["status"] == "FINISHED"


def test_a_file_missing_at_upload_is_reported_and_the_rest_arrives(
    start: Start, uri: str, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = run_folder / "gone.txt"
    gone.write_text("here for now")
    tracker = start(DOWN)
    tracker.log_artifact(gone)
    tracker.log_artifact(run_folder / "config.yaml")
    tracker.finish()
    gone.unlink()
    (synced,) = sync_run(run_folder, uri)
    assert (synced.outcome, synced.num_refused) == ("uploaded", 1)
    assert everything_in(uri)["first"]["files"] == ["config.yaml"]
    assert f"the file {gone} is gone" in capsys.readouterr().err


def test_another_server_gets_the_whole_run(
    start: Start, uri: str, run_folder: Path, migrated_db: Path, tmp_path: Path
) -> None:
    track_everything(start(uri), run_folder)
    other = tmp_path / "other" / "mlflow.db"
    other.parent.mkdir()
    shutil.copy(migrated_db, other)
    tracker = start(f"sqlite:///{other}", run_id=Spool.find(run_folder, _id_of(uri, "first")).local_id)  # type: ignore[union-attr]
    tracker.log_metrics({"loss": 0.125}, step=8)
    tracker.finish()
    found = everything_in(f"sqlite:///{other}")
    assert found["first"]["metrics"]["loss"] == [*EXPECTED["first"]["metrics"]["loss"], (8, 0.125)]
    assert everything_in(uri) == EXPECTED


def _id_of(uri: str, name: str) -> str:
    client = connect(uri)
    experiment = client.get_experiment_by_name("lab-classification")
    (run,) = client.search_runs([experiment.experiment_id], f"run_name = '{name}'")
    run_id: str = run.info.run_id
    return run_id
