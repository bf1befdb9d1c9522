from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab.artifacts.manifest import Manifest
from lab.config.run import TrackingConfig
from lab.core.errors import ConfigError, TrackingError
from lab.core.interfaces import Tracker
from lab.core.signature import Signature, TensorSpec
from lab.tracking import MlflowTracker, NullTracker, child, open_tracker
from lab.tracking.mlflow_tracker import flatten

Start = Callable[..., MlflowTracker]

SIGNATURE = Signature(
    inputs=(TensorSpec("image", "float32", ("batch", 1, 7, 5)),),
    outputs=(TensorSpec("logits", "float32", ("batch", 3)),),
)


def history(client: Any, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in client.get_metric_history(run_id, key)]


def test_importing_tracking_does_not_import_mlflow() -> None:
    code = "import lab.tracking, sys; print([m for m in ('mlflow', 'torch', 'sqlalchemy') if m in sys.modules])"
    root = Path(__file__).parents[2]
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert answer.stdout.strip() == "[]"


def test_disabled_tracking_is_the_null_tracker(tmp_path: Path) -> None:
    tracker = open_tracker(TrackingConfig(enabled=False), experiment="e", run_name="r", folder=tmp_path)
    assert isinstance(tracker, NullTracker)
    assert isinstance(tracker, Tracker)
    assert isinstance(child(tracker, "compile"), NullTracker)
    tracker.log_metrics({"a": 1.0})
    tracker.finish()
    assert list(tmp_path.iterdir()) == []


def test_params_metrics_tags_files_and_status_arrive(start: Start, uri: str, client: Any, run_folder: Path) -> None:
    tracker = start(uri, tags={"lab.step": "train"})
    assert isinstance(tracker, Tracker)
    tracker.log_params({"task": "classification", "train": {"epochs": 3, "steps": [1, 2]}, "none": None})
    for step in range(1, 24):
        tracker.log_metrics({"train/loss": 1.0 / step}, step=step)
    tracker.log_metrics({"test/accuracy": 0.925})
    tracker.log_artifact(run_folder / "config.yaml")
    tracker.set_tags({"colour": "blue"})
    tracker.finish()

    run = client.get_run(tracker.run_id)
    assert run.data.params == {
        "task": "classification", "train.epochs": "3", "train.steps": "[1, 2]", "none": "None",
    }  # fmt: skip
    assert history(client, tracker.run_id, "train/loss") == [(step, 1.0 / step) for step in range(1, 24)]
    assert run.data.metrics["test/accuracy"] == 0.925
    assert (run.data.tags["lab.step"], run.data.tags["colour"]) == ("train", "blue")
    assert "| test/accuracy | 0.925 |" in run.data.tags["mlflow.note.content"]
    assert (run.info.status, run.info.run_name) == ("FINISHED", "first")
    assert run.info.end_time >= run.info.start_time > time.time() * 1000 - 60_000
    assert [f.path for f in client.list_artifacts(tracker.run_id)] == ["config.yaml"]


def test_artifacts_lie_beside_the_database(start: Start, uri: str, tmp_path: Path, run_folder: Path) -> None:
    tracker = start(uri)
    tracker.log_artifact(run_folder / "config.yaml", "sub/folder")
    tracker.finish()
    stored = tmp_path / "mlartifacts" / "lab-classification" / tracker.run_id / "artifacts/sub/folder/config.yaml"
    assert stored.read_text() == "task: classification\n"


def test_a_folder_is_logged_with_its_content(start: Start, uri: str, client: Any, run_folder: Path) -> None:
    (run_folder / "plots" / "deep").mkdir(parents=True)
    (run_folder / "plots" / "deep" / "a.txt").write_text("a")
    tracker = start(uri)
    tracker.log_artifact(run_folder / "plots")
    tracker.finish()
    assert [f.path for f in client.list_artifacts(tracker.run_id, "plots/deep")] == ["plots/deep/a.txt"]


def test_a_file_outside_the_run_may_vanish_after_logging(start: Start, uri: str, client: Any, tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere.txt"
    outside.write_text("kept")
    tracker = start(uri)
    tracker.log_artifact(outside)
    outside.unlink()
    tracker.finish()
    assert [f.path for f in client.list_artifacts(tracker.run_id)] == ["elsewhere.txt"]
    with pytest.raises(TrackingError, match="does not exist"):
        tracker.log_artifact(outside)


def test_infinite_and_undefined_metrics(start: Start, uri: str, client: Any) -> None:
    tracker = start(uri)
    tracker.log_metrics({"up": float("inf"), "none": float("nan")}, step=5)
    tracker.finish()
    metrics = client.get_run(tracker.run_id).data.metrics
    assert metrics["up"] > 1e308
    assert np.isnan(metrics["none"])


def test_long_values_are_cut_and_say_so(
    start: Start, uri: str, client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = start(uri)
    tracker.log_params({"short": "a" * 6000, "long": "b" * 6001})
    tracker.set_tags({"note": "c" * 8001})
    tracker.finish()
    run = client.get_run(tracker.run_id)
    assert run.data.params["short"] == "a" * 6000
    assert len(run.data.params["long"]) == 6000
    assert run.data.params["long"].endswith(" ... [cut: 6001 characters]")
    assert run.data.tags["note"].endswith(" ... [cut: 8001 characters]")
    assert "'long' has 6001 characters" in capsys.readouterr().err


def test_what_the_server_refuses_does_not_take_the_rest_with_it(
    start: Start, uri: str, client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = start(uri)
    tracker.log_params({"a": 1, "b": 2})
    tracker.flush()
    tracker.log_params({"a": 7, "c": 3})  # MLflow never changes a parameter
    tracker.log_metrics({"bad#name": 1.0}, step=1)
    tracker.log_metrics({"good": 2.0}, step=1)
    tracker.finish()
    run = client.get_run(tracker.run_id)
    assert run.data.params == {"a": "1", "b": "2", "c": "3"}
    assert run.data.metrics == {"good": 2.0}
    refused = [json.loads(line) for line in (tracker.spool.folder / "refused.jsonl").read_text().splitlines()]
    assert [(r["op"], r.get("key"), r.get("values")) for r in refused] == [
        ("params", "a", None), ("metrics", None, {"bad#name": 1.0}),
    ]  # fmt: skip
    assert "refused params a" in capsys.readouterr().err


def test_children_carry_the_parents_identity(start: Start, uri: str, client: Any, run_folder: Path) -> None:
    parent = start(uri)
    parent.log_params({"task": "classification", "model": {"name": "resnet20"}, "train": {"epochs": 3}})
    first = child(parent, "compile x86", {"lab.step": "compile"})
    first.log_metrics({"latency_ms": 1.5})
    first.finish()
    parent.finish()
    # A later command only knows the id.
    second = start(uri, name="compile arm", parent_run_id=parent.run_id)
    second.finish()
    for tracker, name in ((first, "compile x86"), (second, "compile arm")):
        run = client.get_run(tracker.run_id)
        assert run.info.run_name == name
        assert run.data.tags["mlflow.parentRunId"] == parent.run_id
        assert run.data.params == {"task": "classification", "model.name": "resnet20"}
    assert client.get_run(first.run_id).data.metrics == {"latency_ms": 1.5}


def test_a_resumed_run_goes_on_and_repeats_no_step(start: Start, uri: str, client: Any) -> None:
    before = start(uri)
    for step in (1, 2, 3):
        before.log_metrics({"loss": 10.0 - step}, step=step)
    before.finish("killed")
    assert client.get_run(before.run_id).info.status == "KILLED"
    after = start(uri, run_id=before.run_id)
    assert after.run_id == before.run_id
    assert client.get_run(before.run_id).info.status == "RUNNING"
    for step in (2, 3, 4):  # training repeats what came after its last checkpoint
        after.log_metrics({"loss": 10.0 - step}, step=step)
    after.finish()
    assert history(client, after.run_id, "loss") == [(1, 9.0), (2, 8.0), (3, 7.0), (4, 6.0)]
    assert client.get_run(after.run_id).info.status == "FINISHED"


def test_a_run_of_another_folder_is_continued_by_its_mlflow_id(start: Start, uri: str, client: Any) -> None:
    experiment = client.create_experiment("lab-classification")
    run_id = client.create_run(experiment).info.run_id
    tracker = start(uri, run_id=run_id)
    tracker.log_metrics({"x": 1.0})
    tracker.finish()
    assert tracker.run_id == run_id
    assert client.get_run(run_id).data.metrics == {"x": 1.0}


def test_a_run_is_tracked_by_one_process_at_a_time(start: Start, uri: str) -> None:
    tracker = start(uri)
    with pytest.raises(TrackingError, match="in use"):
        start(uri, run_id=tracker.run_id)


def test_the_data_set_is_an_input_of_the_run(start: Start, uri: str, client: Any) -> None:
    tracker = start(uri)
    tracker.log_dataset({"name": "fashion-mnist", "digest": "ab" * 32, "source": "idx", "num_train": 60_000})
    tracker.finish()
    run = client.get_run(tracker.run_id)
    dataset = run.inputs.dataset_inputs[0].dataset
    assert (dataset.name, dataset.digest) == ("fashion-mnist", "ab" * 18)
    assert json.loads(dataset.profile)["num_train"] == 60_000
    assert run.data.tags["lab.dataset_digest"] == "ab" * 32


def test_weights_are_registered_with_their_signature(start: Start, uri: str, client: Any, run_folder: Path) -> None:
    (run_folder / "model.safetensors").write_bytes(b"weights")
    (run_folder / "unlisted.txt").write_text("not a part of the model")
    manifest = Manifest(kind="run", name="first", task="classification", signature=SIGNATURE, labels=("a", "b", "c"))
    manifest = manifest.with_files(run_folder, ["model.safetensors", "config.yaml"])
    manifest.save(run_folder)
    tracker = start(uri)
    tracker.register_model(name="classification-first", folder=run_folder, manifest=manifest)
    tracker.finish()

    from mlflow.models import Model

    version = client.get_model_version("classification-first", "1")
    assert version.run_id == tracker.run_id
    stored = Path(version.source)
    assert sorted(p.name for p in stored.iterdir()) == ["MLmodel", "config.yaml", "manifest.json", "model.safetensors"]
    Manifest.load(stored)  # checks the sums
    model = Model.load(str(stored / "MLmodel"))
    assert set(model.flavors) == {"lab"}
    assert [(i.name, i.shape) for i in model.signature.inputs.inputs] == [("image", (-1, 1, 7, 5))]
    assert [(o.name, o.shape) for o in model.signature.outputs.inputs] == [("logits", (-1, 3))]


# mlflow.pyfunc, which only the loading side imports, warns about its own type hints.
@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")
def test_an_exported_model_opens_with_mlflows_own_loader(
    start: Start, uri: str, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = pytest.importorskip("onnx")
    mlflow = pytest.importorskip("mlflow")
    h = onnx.helper
    node = h.make_node("Relu", ["image"], ["logits"])
    specs = [h.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 7]) for name in ("image", "logits")]
    graph = h.make_graph([node], "g", [specs[0]], [specs[1]])
    folder = run_folder / "export"
    folder.mkdir()
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    signature = Signature(
        (TensorSpec("image", "float32", ("batch", 7)),), (TensorSpec("logits", "float32", ("batch", 7)),)
    )
    manifest = Manifest(kind="onnx", name="first", signature=signature, versions={"onnx": onnx.__version__})
    manifest = manifest.with_files(folder, ["model.onnx"])
    manifest.save(folder)
    tracker = start(uri)
    tracker.register_model(name="relu", folder=folder, manifest=manifest)
    tracker.finish()

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    x = np.linspace(-1, 1, 21, dtype=np.float32).reshape(3, 7)
    loaded = mlflow.pyfunc.load_model("models:/relu/1")
    np.testing.assert_array_equal(loaded.predict({"image": x})["logits"], np.maximum(x, 0))


def test_system_metrics_are_sampled_and_stop(
    start: Start, uri: str, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    tracker = start(uri, system_metrics=True)
    time.sleep(0.5)
    tracker.finish()
    steps = [step for step, _ in history(client, tracker.run_id, "system/system_memory_usage_percentage")]
    assert steps == list(range(len(steps)))
    assert len(steps) >= 2
    number = len(steps)
    time.sleep(0.3)
    assert len(history(client, tracker.run_id, "system/system_memory_usage_percentage")) == number


def test_a_finished_tracker_takes_nothing_more(start: Start, uri: str) -> None:
    tracker = start(uri)
    tracker.finish()
    tracker.finish()
    with pytest.raises(TrackingError, match="finished"):
        tracker.log_metrics({"late": 1.0})


def test_an_unknown_scheme_is_a_configuration_error(start: Start) -> None:
    with pytest.raises(ConfigError, match="htp"):
        start("htp://server:5000")


def test_flatten_keeps_order_and_dots_keys() -> None:
    assert list(flatten({"b": {"y": 1, "x": {"k": 2}}, "a": 3})) == [("b.y", 1), ("b.x.k", 2), ("a", 3)]
