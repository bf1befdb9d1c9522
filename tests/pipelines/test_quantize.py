"""`--precision int8`: calibrated on the run's data, scored before and after, refused where it costs too much."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.artifacts.files import sha256_file
from lab.compile.targets import resolve_target
from lab.core.errors import ConfigError, ParityError
from lab.pipelines.compile import compile_file, compile_run
from lab.pipelines.compile_source import CompileOptions
from lab.pipelines.context import OpenRun
from tests.compile.graphs import Graph

VNNI = "x86:znver4"
needs_vnni = pytest.mark.skipif(not resolve_target(VNNI).runnable_here()[0], reason="this CPU lacks AVX-512 VNNI")


@needs_vnni
def test_int8_is_calibrated_scored_and_compiled(opened: OpenRun) -> None:
    report = compile_run(opened, VNNI, CompileOptions(precision="int8"))
    assert report.folder.name == "x86-znver4+int8"
    manifest = report.manifest
    assert manifest.parity[-1].status == "passed"
    assert {"onnxruntime-int8", "onnxruntime", "tvm-x86:znver4+int8"} <= set(manifest.metrics)
    schedules = {row["schedule"] for row in report.kernels["kernels"]}
    assert "conv2d_integer" in schedules
    assert manifest.parents == {"model.onnx": sha256_file(opened.dir.quantized / "model.onnx")}
    again = compile_run(opened, VNNI, CompileOptions(precision="int8"))
    assert again.skipped


@needs_vnni
def test_int8_that_costs_too_much_keeps_nothing(opened: OpenRun, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([{"accuracy": 0.9}, {"accuracy": 0.85}])
    monkeypatch.setattr("lab.pipelines.quantize._score", lambda *arguments: next(scores))
    with pytest.raises(ParityError, match="8 bits cost too much of the model's accuracy") as caught:
        compile_run(opened, VNNI, CompileOptions(precision="int8"))
    assert "0.9000 in 32 bits, 0.8500 in 8 bits" in str(caught.value.got)
    assert not opened.dir.quantized.exists()
    assert not opened.dir.bundle("x86-znver4+int8").exists()


def test_a_file_without_data_cannot_be_quantised(tmp_path: Path) -> None:
    path = Graph([1, 3]).save(tmp_path / "empty.onnx", "x")
    with pytest.raises(ConfigError, match="calibration needs the task's data"):
        compile_file(path, VNNI, tmp_path / "bundle", CompileOptions(precision="int8"))
