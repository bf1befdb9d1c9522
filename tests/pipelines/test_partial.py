"""`lab compile --partial`: a bundle whose parts run in two engines."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser

from lab.artifacts.manifest import Manifest
from lab.core.errors import ConfigError, IntegrityError, MissingToolError, UnsupportedError
from lab.core.host import cpu_arch
from lab.pipelines.compile import CompileReport, compile_file
from lab.pipelines.compile_parts import describe_parts
from lab.pipelines.compile_source import CompileOptions
from lab.runtime import open_bundle

pytestmark = pytest.mark.skipif(cpu_arch() != "x86_64", reason="compiles for this machine's x86")

MODEL = """<ir_version: 8, opset_import: ["": 18]> g (float[batch,2,4,4] x) => (float[batch,2,4,4] y)
<float[2,2,3,3] w = {1,2,3,4,5,6,7,8,9,1,-2,3,-4,5,-6,7,-8,9,9,8,7,6,5,4,3,2,1,-1,2,-3,4,-5,6,-7,8,-9},
int64[2] axes = {2, 3}>
{ a = Conv <pads = [1,1,1,1]> (x, w) f = Det (a) u = Unsqueeze (f, axes) n = Tanh (u) m = Mul (n, a) y = Relu (m) }"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("partial") / "model.onnx"
    onnx.save(parser.parse_model(MODEL), path)
    return path


@pytest.fixture(scope="module")
def report(model: Path) -> CompileReport:
    options = CompileOptions(batch_sizes=(1, 3), partial=True, report=True)
    return compile_file(model, "x86", model.parent / "bundle", options)


def test_both_engines_are_in_the_bundle_and_it_is_right(report: CompileReport, model: Path) -> None:
    import onnxruntime

    for entry in report.manifest.entries:
        assert [part.engine for part in entry.parts] == ["tvm", "onnxruntime", "tvm"]
        assert entry.parts[1].operators == {"Det": 1}
        assert set(entry.files) <= set(report.manifest.files)
    assert [rung.status for rung in report.manifest.parity] == ["passed"]
    runner = open_bundle(report.folder)
    session = onnxruntime.InferenceSession(str(model))
    for size in (1, 2, 3, 7):  # padded and split
        x = np.random.default_rng(size).standard_normal((size, 2, 4, 4)).astype(np.float32)
        np.testing.assert_allclose(runner.run({"x": x})["y"], session.run(None, {"x": x})[0], atol=1e-4)
    runner.close()


def test_it_is_told_what_runs_where(report: CompileReport) -> None:
    told = dict(describe_parts(report.manifest))
    assert told["part 1"].startswith("ONNX Runtime: Det, ")
    assert "% of the time" in told["part 1"]
    assert "no such operator" in told["part 1"]
    assert told["part 0"].startswith("compiled: Conv")
    measured = report.manifest.metrics[report.manifest.parity[-1].name]
    shares = [value for name, value in measured.items() if name.endswith("_share")]
    assert len(shares) == 3
    assert sum(shares) == pytest.approx(1, abs=1e-3)
    parts = report.kernels["profile"]["parts"]
    assert [part["engine"] for part in parts[:3]] == ["compiled", "ONNX Runtime", "compiled"]
    page = (report.folder / "report.html").read_text()
    assert "<h2>Parts</h2>" in page
    assert "Det" in page


def test_without_it_the_refusal_names_the_node_and_suggests_it(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError) as refused:
        compile_file(model, "x86", tmp_path / "b", CompileOptions())
    assert "Det x1 (f)" in str(refused.value)
    assert "--partial" in str(refused.value)
    assert not (tmp_path / "b").exists()


def test_a_node_that_fails_late_is_named_too(tmp_path: Path) -> None:
    """Known to the importer, refused by TVM's lowering: alone it fails as well, which is how it is found."""
    text = """<ir_version: 10, opset_import: ["": 19]> g (float[1,2,4,4] x) => (float[1,2,8,8] y)
    <int64[4] sizes = {1,2,8,8}> { a = Relu (x)
      y = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel_symmetric"> (a, , , sizes) }"""
    path = tmp_path / "model.onnx"
    onnx.save(parser.parse_model(text), path)
    with pytest.raises(UnsupportedError, match=r"(?s)Resize \(y\).*half_pixel_symmetric.*--partial"):
        compile_file(path, "x86", tmp_path / "b", CompileOptions())
    report = compile_file(path, "x86", tmp_path / "b", CompileOptions(partial=True))
    assert [part.engine for part in report.manifest.entries[0].parts] == ["tvm", "onnxruntime"]
    assert report.manifest.parity[-1].status == "passed"


def test_a_model_that_compiles_is_compiled_whole(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(parser.parse_model(MODEL.replace("Det (a)", "ReduceSum <keepdims = 0> (a, axes)")), path)
    report = compile_file(path, "x86", tmp_path / "b", CompileOptions(partial=True))
    assert report.manifest.entries[0].parts == ()
    assert report.manifest.entries[0].library == "model_b1.so"


@pytest.mark.parametrize(("target", "told"), [("arm", "devices without ONNX Runtime"), ("cuda:sm_90", "GPU")])
def test_refused_where_onnx_runtime_is_not(target: str, told: str, model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=told):
        compile_file(model, target, tmp_path / "b", CompileOptions(partial=True))


def test_parts_are_checksummed_and_deterministic(report: CompileReport, model: Path, tmp_path: Path) -> None:
    again = compile_file(model, "x86", tmp_path / "b", CompileOptions(batch_sizes=(1, 3), partial=True))
    for entry in again.manifest.entries:
        for name in entry.files:
            assert again.manifest.files[name] == report.manifest.files[name]
    part = again.folder / again.manifest.entries[0].parts[1].file
    part.write_bytes(part.read_bytes() + b"\0")
    with pytest.raises(IntegrityError, match=part.name):
        open_bundle(again.folder)


def test_without_onnx_runtime_the_error_says_what_needs_it(
    report: CompileReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **options: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'")
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingToolError, match="runs Det in ONNX Runtime"):
        open_bundle(report.folder)


def test_the_manifest_reads_back(report: CompileReport) -> None:
    assert Manifest.load(report.folder).entries == report.manifest.entries


def test_the_edge_runner_refuses_it(report: CompileReport) -> None:
    from lab.runtime.edge import run_bundle

    x = np.zeros((1, 2, 4, 4), np.float32)
    with pytest.raises(UnsupportedError, match="ONNX Runtime"):
        run_bundle(report.folder, {"x": x})
