from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lab.artifacts.manifest import Manifest
from lab.artifacts.rundir import RunDir, list_runs
from lab.core.errors import ArtifactError, DataError
from lab.pipelines import train
from lab.pipelines.context import OpenRun, load_config
from lab.pipelines.evaluate import evaluate
from lab.pipelines.runs import detail, overview
from tests.tiny import CLASSES, tiny_config, write_config, write_tiny_idx


def test_a_run_leaves_what_the_documentation_lists(trained_once: RunDir) -> None:
    for path in (trained_once.config, trained_once.status, trained_once.weights, trained_once.metrics):
        assert path.is_file(), path
    assert trained_once.checkpoint.is_dir()
    assert trained_once.read_status()["status"] == "finished"
    manifest = Manifest.load(trained_once.path)
    assert (manifest.kind, manifest.task, manifest.labels) == ("run", "classification", CLASSES)
    assert manifest.metrics["train"]["test/accuracy"] > 0.9
    assert {"torch", "lightning", "python"} <= set(manifest.versions)


def test_plots_are_pictures_with_content(trained_once: RunDir) -> None:
    pictures = sorted(path.name for path in trained_once.plots.glob("*.png"))
    assert len(pictures) >= 3
    for path in trained_once.plots.glob("*.png"):
        with Image.open(path) as image:
            assert image.width >= 400
            assert len(image.convert("RGB").getcolors(1 << 24) or []) > 10


def test_the_run_is_in_mlflow_with_everything(trained_once: RunDir, tracking: dict[str, Any]) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking["uri"])
    found = client.get_run(trained_once.read_status()["mlflow_run_id"])
    assert found.info.status == "FINISHED"
    assert found.data.params["model.name"] == "resnet20"
    assert found.data.params["train.epochs"] == "3"
    accuracy = Manifest.load(trained_once.path).metrics["train"]["test/accuracy"]
    assert found.data.metrics["test/accuracy"] == found.data.metrics["accuracy"] == pytest.approx(accuracy)
    assert len(client.get_metric_history(found.info.run_id, "validation/accuracy")) == 3
    assert found.inputs.dataset_inputs[0].dataset.digest
    files = {item.path for item in client.list_artifacts(found.info.run_id)}
    assert {"config.yaml", "plots"} <= files
    assert client.search_model_versions("name='classification-tiny'")


def test_the_resolved_configuration_repeats_the_run(opened: OpenRun, tmp_path: Path) -> None:
    overrides = [f"runs_dir={tmp_path / 'again'}", "tracking.enabled=false"]
    again = train.start(load_config(opened.dir.config, overrides))
    assert again.run.weights.read_bytes() == opened.dir.weights.read_bytes()


def test_evaluate_gives_the_metric_that_training_recorded(opened: OpenRun) -> None:
    report = evaluate(str(opened.dir.path), opened.dir.path.parents[1], split="test")
    assert report.num_samples == 60
    assert report.metrics["accuracy"] == pytest.approx(opened.manifest.metrics["train"]["test/accuracy"])


def test_overview_and_detail(opened: OpenRun) -> None:
    row = overview(opened.dir.path.parents[1])[0]
    assert (row["name"], row["status"], row["to_upload"]) == ("tiny", "finished", False)
    files = detail("tiny", opened.dir.path.parents[1])["files"]
    assert {"model.safetensors", "config.yaml", "manifest.json"} <= set(files)


def test_missing_data_leaves_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_config(tmp_path / "c.yaml", tiny_config(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="nowhere"):
        train.start(load_config(path))
    assert not (tmp_path / "runs").exists() or list_runs(tmp_path / "runs") == []


def test_truncated_idx_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_tiny_idx(tmp_path / "data", 20, 5)
    broken = tmp_path / "data" / "train-images-idx3-ubyte"
    broken.write_bytes(broken.read_bytes()[:-3])
    path = write_config(tmp_path / "c.yaml", tiny_config(tmp_path / "data"))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.* (truncated|bytes)"):
        train.start(load_config(path))


def test_resume_refuses_an_edited_configuration(opened: OpenRun, home: Path) -> None:
    text = opened.dir.config.read_text()
    opened.dir.config.write_text(text.replace("epochs: 3", "epochs: 4"))
    with pytest.raises(ArtifactError, match="was changed since"):
        train.resume(str(opened.dir.path), opened.dir.path.parents[1])


def test_resume_of_a_finished_run_changes_nothing(opened: OpenRun) -> None:
    before = {path: path.stat().st_mtime_ns for path in opened.dir.path.rglob("*")}
    report = train.resume(str(opened.dir.path), opened.dir.path.parents[1])
    assert report.status == "finished"
    assert report.metrics == opened.manifest.metrics["train"]
    assert {path: path.stat().st_mtime_ns for path in opened.dir.path.rglob("*")} == before


def test_tracking_server_down_finishes_and_uploads_later(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lab.tracking.sync import sync_runs

    monkeypatch.chdir(tmp_path)
    down = {"enabled": True, "uri": "http://127.0.0.1:9", "system_metrics": False}
    path = write_config(tmp_path / "c.yaml", tiny_config(home / "data", tracking=down))
    report = train.start(load_config(path, ["train.limit_train_batches=2", "train.epochs=1"]))
    assert report.status == "finished"
    assert overview(Path("runs"))[0]["to_upload"] is True
    synced = sync_runs(Path("runs"), f"sqlite:///{home / 'mlflow.db'}")
    assert [result.outcome for result in synced] == ["uploaded"]
    assert overview(Path("runs"))[0]["to_upload"] is False


def test_metrics_file_has_every_epoch(trained_once: RunDir) -> None:
    rows = [json.loads(line) for line in trained_once.metrics.read_text().splitlines()]
    assert sorted({row["epoch"] for row in rows if "validation/accuracy" in row}) in ([0, 1, 2], [1, 2, 3])
