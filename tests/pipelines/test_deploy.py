"""Export, compile, evaluate, predict, bench on one tiny run: values, child runs, skipped work, refused input."""

from __future__ import annotations

import json
import shutil
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from lab.artifacts.manifest import Manifest
from lab.artifacts.registered import read_registered
from lab.artifacts.rundir import RunDir
from lab.core.errors import ConfigError, DataError, IncompatibleError, IntegrityError, ParityError, UnsupportedError
from lab.pipelines.compile import compile_file, compile_run
from lab.pipelines.compile_source import CompileOptions
from lab.pipelines.context import OpenRun
from lab.pipelines.evaluate import evaluate
from lab.pipelines.export import export
from lab.pipelines.predict import Saving, predict
from lab.runtime import open_bundle


def test_export_is_checked_recorded_and_skipped_when_unchanged(opened: OpenRun) -> None:
    first = export(opened)
    assert not first.skipped
    rung = first.manifest.parity[0]
    assert (rung.status, rung.agreement) == ("passed", 1.0)
    assert rung.max_abs_error is not None
    assert rung.max_abs_error <= 1e-4
    model = onnx.load(first.folder / "model.onnx")
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert export(opened).skipped
    assert not export(opened, force=True).skipped


def test_export_again_when_the_weights_changed(opened: OpenRun) -> None:
    export(opened)
    data = bytearray(opened.dir.weights.read_bytes())
    data[-1] ^= 1
    opened.dir.weights.write_bytes(bytes(data))
    assert not export(opened).skipped


def test_parity_failure_keeps_nothing(opened: OpenRun, monkeypatch: pytest.MonkeyPatch) -> None:
    from lab.runtime import onnx_runner

    original = onnx_runner.OnnxRunner.run
    monkeypatch.setattr(
        onnx_runner.OnnxRunner, "run", lambda self, inputs: {n: a + 1 for n, a in original(self, inputs).items()}
    )
    with pytest.raises(ParityError, match="does not compute what"):
        export(opened)
    assert not opened.dir.export.exists()


@pytest.fixture(scope="module")
def compiled_once(trained_once: RunDir) -> Path:
    opened = OpenRun.find(str(trained_once.path), trained_once.path.parents[1])
    return compile_run(opened, "x86", CompileOptions(batch_sizes=(1, 4), report=True)).folder


@pytest.fixture
def bundle(compiled_once: Path, opened: OpenRun) -> Path:
    """The bundle of the test's own copy of the run."""
    for name in ("export", "bundles"):
        shutil.copytree(compiled_once.parents[1] / name, opened.dir.path / name, dirs_exist_ok=True)
    return opened.dir.bundle("x86")


def test_x86_bundle_equals_onnx_runtime_and_is_skipped_when_unchanged(opened: OpenRun, bundle: Path) -> None:
    manifest = Manifest.load(bundle)
    rung = manifest.parity[-1]
    assert (rung.name, rung.reference, rung.status, rung.num_samples) == ("tvm-x86", "onnxruntime", "passed", 60)
    assert rung.agreement == 1.0
    assert rung.max_abs_error is not None
    assert rung.max_abs_error <= 1e-4
    assert [entry.batch_size for entry in manifest.entries] == [1, 4]
    assert manifest.metrics["tvm-x86"]["accuracy"] == manifest.metrics["onnxruntime"]["accuracy"]
    assert manifest.metrics["tvm-x86"]["latency_p50_ms"] > 0
    report = json.loads((bundle / "report.json").read_text())
    assert all(row["schedule"] for row in report["kernels"])
    assert compile_run(opened, "x86", CompileOptions(batch_sizes=(1, 4))).skipped
    scores = evaluate(str(bundle), opened.dir.path.parents[1], split="test").metrics
    assert scores["accuracy"] == pytest.approx(opened.manifest.metrics["train"]["test/accuracy"])


def test_export_and_compile_are_children_of_the_run_in_mlflow(
    opened: OpenRun, bundle: Path, tracking: dict[str, Any]
) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking["uri"])
    parent = opened.dir.read_status()["mlflow_run_id"]
    experiment = client.get_experiment_by_name("lab-classification")
    children = client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    by_target = {run.data.params["target"]: run for run in children}
    assert {"onnx", "x86"} <= set(by_target)
    compiled = by_target["x86"].data
    assert compiled.params["model.name"] == "resnet20"
    assert compiled.metrics["agreement"] == 1.0
    assert compiled.metrics["accuracy"] == pytest.approx(opened.manifest.metrics["train"]["test/accuracy"])
    assert compiled.metrics["latency_p50_ms"] > 0
    assert compiled.metrics["size_mb"] > 0
    logged = {file.path for file in client.list_artifacts(by_target["x86"].info.run_id, "compile")}
    assert {"compile/report.json", "compile/report.html", "compile/manifest.json"} <= logged


def test_the_report_profiles_every_batch_size_and_is_part_of_the_bundle(bundle: Path) -> None:
    assert "report.html" in Manifest.load(bundle).files
    profile = json.loads((bundle / "report.json").read_text())["profile"]
    assert [function["batch_size"] for function in profile["functions"]] == [1, 4]
    assert profile["peaks"]["flops_per_s"] > 1e8
    for function in profile["functions"]:
        assert function["inference_ms"] > 0
        assert {layout["layout"] for layout in function["layouts"]} == {"NHWC"}
        assert function["memory"]["peak_bytes"] > 0
        assert sum(kernel["share_of_time"] or 0 for kernel in function["kernels"]) == pytest.approx(1)
    small, large = profile["functions"]
    assert sum(k["flops"] for k in large["kernels"]) == pytest.approx(4 * sum(k["flops"] for k in small["kernels"]))
    text = (bundle / "report.html").read_text()
    assert all(escape(kernel["kernel"]) in text for kernel in small["kernels"])
    assert text.count("<svg") == 2


def test_a_report_asked_for_later_is_made(tmp_path: Path) -> None:
    path = node_model(tmp_path / "m.onnx", "Softmax", (2, 3), axis=1)
    assert not compile_file(path, "x86", tmp_path / "b", CompileOptions()).skipped
    assert not compile_file(path, "x86", tmp_path / "b", CompileOptions(report=True)).skipped
    assert (tmp_path / "b" / "report.html").is_file()
    assert compile_file(path, "x86", tmp_path / "b", CompileOptions(report=True)).skipped
    assert compile_file(path, "x86", tmp_path / "b", CompileOptions()).skipped


def test_a_target_that_does_not_run_here_is_reported_without_times(tmp_path: Path) -> None:
    path = node_model(tmp_path / "m.onnx", "Softmax", (2, 3), axis=1)
    report = compile_file(path, "cuda:sm_90", tmp_path / "b", CompileOptions(report=True))
    profile = report.kernels["profile"]
    assert profile["not_measured"]
    assert profile["peaks"] is None
    (function,) = profile["functions"]
    assert function["memory"]["peak_bytes"] > 0
    assert all(kernel["num_bytes"] and kernel["time_us"] is None for kernel in function["kernels"])
    assert "Nothing was timed" in (tmp_path / "b" / "report.html").read_text()


def test_a_compiled_bundle_is_registered_and_comes_back_whole(
    opened: OpenRun, bundle: Path, tracking: dict[str, Any], tmp_path: Path
) -> None:
    from lab.tracking.fetch import fetch

    fetched = fetch("models:/classification-tiny-x86/1", tmp_path / "registry", tracking["uri"])
    assert Manifest.load(fetched) == Manifest.load(bundle)
    assert read_registered(fetched) == "models:/classification-tiny-x86/1"


def test_predict_goes_on_after_a_broken_image(opened: OpenRun, bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    dataset = opened.learning_task().eval_dataset("test")
    for index in range(5):
        Image.fromarray(dataset[index].image[:, :, 0]).save(folder / f"{index}.png")
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:40])
    records = list(predict(bundle, [str(folder)]))
    assert [Path(record["file"]).name for record in records] == [f"{index}.png" for index in range(5)]
    assert "2.png" in records[2]["error"]["what"]
    good = [records[index] for index in (0, 1, 3, 4)]
    truth = [dataset.labels[dataset[index].label] for index in (0, 1, 3, 4)]
    assert [record["label"] for record in good] == truth
    assert all(0 < record["probability"] <= 1 for record in good)


def test_predict_writes_pictures_and_responses(opened: OpenRun, bundle: Path, tmp_path: Path) -> None:
    image = opened.learning_task().eval_dataset("test")[0].image
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(image[:, :, 0]).save(tmp_path / folder / "x.png")
    save = Saving(tmp_path / "pictures", tmp_path / "responses", "application/json")
    records = list(predict(bundle, [str(tmp_path / "a"), str(tmp_path / "b")], options={"top_k": 2}, save=save))
    assert len({record["picture"] for record in records}) == 2  # the files share a name
    for record in records:
        assert len(record["top"]) == 2
        assert np.asarray(Image.open(record["picture"])).shape[2] == 3
        assert json.loads(Path(record["response"]).read_text()) == pytest.approx(record["probabilities"])


def test_predict_refuses_options_of_other_tasks(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="classification has no option threshold"):
        list(predict(bundle, [str(tmp_path)], options={"threshold": 0.5}))


def test_predict_refuses_paths_that_are_not_there(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no input file at"):
        list(predict(bundle, [str(tmp_path / "*.nothing")]))


def test_tampered_bundle_is_refused(bundle: Path) -> None:
    library = bundle / Manifest.load(bundle).entries[0].library
    data = bytearray(library.read_bytes())
    data[len(data) // 2] ^= 1
    library.write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match=library.name):
        open_bundle(bundle)


def test_bundle_for_another_cpu_is_refused_before_it_is_loaded(bundle: Path) -> None:
    data = json.loads((bundle / "manifest.json").read_text())
    data["target"]["required_features"] = [*data["target"]["required_features"], "quantum"]
    (bundle / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(IncompatibleError, match="quantum"):
        open_bundle(bundle)
    data["target"]["arch"] = "riscv64"
    (bundle / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(IncompatibleError, match="riscv64"):
        open_bundle(bundle)


def node_model(path: Path, op: str, shape: tuple[int, ...], **attributes: Any) -> Path:
    node = helper.make_node(op, ["x"], ["y"], name="the_node", **attributes)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node], "g", [value("x", TensorProto.FLOAT, [2, 3])], [value("y", TensorProto.FLOAT, shape)]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_any_onnx_file_compiles(tmp_path: Path) -> None:
    path = node_model(tmp_path / "m.onnx", "Softmax", (2, 3), axis=1)
    report = compile_file(path, "x86", tmp_path / "b", CompileOptions())
    assert report.manifest.parity[-1].status == "passed"
    x = np.array([[1, 2, 3], [0, 0, 0]], "float32")
    y = open_bundle(tmp_path / "b").run({"x": x})["y"]
    assert np.allclose(y[1], 1 / 3)
    with pytest.raises(Exception, match="compiled from an ONNX file alone"):
        list(predict(tmp_path / "b", ["x.png"]))


def test_an_exported_file_keeps_its_task(opened: OpenRun, tmp_path: Path) -> None:
    onnx = export(opened).folder / "model.onnx"
    report = compile_file(onnx, "x86", tmp_path / "b", CompileOptions())
    assert (report.manifest.task, report.manifest.labels) == ("classification", opened.manifest.labels)
    assert report.manifest.parity[-1].status == "passed"


def test_unsupported_operator_is_listed_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="Det") as caught:
        compile_file(node_model(tmp_path / "m.onnx", "Det", (2,)), "x86", tmp_path / "b", CompileOptions())
    assert "the_node" in caught.value.message()
    assert not (tmp_path / "b").exists()


def test_unknown_target_lists_the_known_ones(opened: OpenRun) -> None:
    with pytest.raises(ConfigError, match="unknown target") as caught:
        compile_run(opened, "sparc", CompileOptions())
    assert "x86" in caught.value.message()


@pytest.mark.arm
def test_arm_bundle_equals_onnx_runtime_under_qemu(opened: OpenRun) -> None:
    rung = compile_run(opened, "arm", CompileOptions(num_samples=5)).manifest.parity[-1]
    assert (rung.status, rung.num_samples, rung.agreement) == ("passed", 5, 1.0)
    assert rung.max_abs_error is not None
    assert rung.max_abs_error <= 1e-4


def test_cuda_bundle_compiles_without_a_gpu_and_says_it_was_not_run(opened: OpenRun) -> None:
    from lab.compile.targets import resolve_target

    runnable, _ = resolve_target("cuda:sm_90").runnable_here()
    rung = compile_run(opened, "cuda:sm_90", CompileOptions()).manifest.parity[-1]
    assert rung.status == ("passed" if runnable else "not run")
    assert runnable or rung.reason


def test_bench_measures_every_engine_that_is_here(opened: OpenRun, bundle: Path) -> None:
    from lab.pipelines.bench import BenchOptions, bench

    report = bench(
        [opened],
        BenchOptions(rounds=2, calls_per_round=2, num_threads=2, engines=("torch eager", "onnxruntime", "tvm x86")),
    )
    rows = {row.engine: row for row in report.rows}
    assert set(rows) == {"torch eager", "onnxruntime", "tvm x86"}
    for row in rows.values():
        assert row.note == ""
        assert row.p50_ms is not None
        assert row.p95_ms is not None
        assert 0 < row.p50_ms <= row.p95_ms
        assert row.metric == pytest.approx(opened.manifest.metrics["train"]["test/accuracy"])
        assert row.max_abs_error is not None
        assert row.max_abs_error <= 1e-4
        assert row.peak_memory_mb is not None
        assert row.peak_memory_mb > 10
    assert json.loads((opened.dir.bench / "bench.json").read_text())["metric"] == "accuracy"
