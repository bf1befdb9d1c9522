"""Bundles of several instruction-set levels: what is in them, what a CPU picks, what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from lab.compile.targets import resolve_target
from lab.core import host
from lab.core.errors import ConfigError, IncompatibleError
from lab.pipelines import doctor
from lab.pipelines.compile import CompileReport, compile_file
from lab.pipelines.compile_source import CompileOptions
from lab.runtime import open_bundle
from lab.runtime.levels import pick_level

HERE = host.cpu_features()
pytestmark = pytest.mark.skipif("avx2" not in HERE or "fma" not in HERE, reason="needs a CPU with AVX2")

FAT = "x86:haswell,skylake-avx512,x86-64-v2"
MODEL = """<ir_version: 8, opset_import: ["": 18]> g (float[batch,1,6,6] x) => (float[batch,2,4,4] y)
<float[2,1,3,3] w = {1,2,3,4,5,6,7,8,9,-1,2,-3,4,-5,6,-7,8,-9}> { a = Conv (x, w) y = Relu (a) }"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> CompileReport:
    folder = tmp_path_factory.mktemp("fat")
    onnx.save(parser.parse_model(MODEL), folder / "model.onnx")
    return compile_file(folder / "model.onnx", FAT, folder / "bundle", CompileOptions(batch_sizes=(1, 2), report=True))


def test_every_level_is_in_it_and_proven_where_it_runs(report: CompileReport) -> None:
    manifest = report.manifest
    assert [level.mcpu for level in manifest.levels] == ["skylake-avx512", "haswell", "x86-64-v2"]
    assert {(entry.level, entry.batch_size) for entry in manifest.entries} == {
        (level.mcpu, size) for level in manifest.levels for size in (1, 2)
    }
    for rung, level in ((r, lv) for lv in manifest.levels for r in manifest.parity if r.name == f"tvm-{lv.name}"):
        runs = set(level.required_features) <= HERE
        assert rung.status == ("passed" if runs else "not run")
        assert runs or "lacks" in rung.reason
    assert len(manifest.parity) == 3
    assert manifest.parity[-1].name == f"tvm-{pick_level(manifest).name}"
    assert {row["level"] for row in report.kernels["kernels"]} == {level.mcpu for level in manifest.levels}


def test_levels_differ_in_code_and_agree_in_results(report: CompileReport) -> None:
    x = np.random.default_rng(0).standard_normal((3, 1, 6, 6)).astype(np.float32)
    results = []
    for level in report.manifest.levels:
        if set(level.required_features) <= HERE:
            runner = open_bundle(report.folder, level=level.mcpu)
            assert runner.target == level
            results.append(runner.run({"x": x})["y"])
            runner.close()
    assert len(results) >= 2
    np.testing.assert_allclose(results[0], results[-1], atol=1e-4)
    hashes = [report.manifest.files[entry.library]["sha256"] for entry in report.manifest.entries]
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize(
    ("missing", "picked"),
    [((), "skylake-avx512"), (("avx512f",), "haswell"), (("avx512f", "avx2"), "x86-64-v2"), (("avx512bw",), "haswell")],
)
def test_the_best_supported_level_is_picked(report: CompileReport, missing: tuple[str, ...], picked: str) -> None:
    every = {name for level in report.manifest.levels for name in level.required_features}
    assert pick_level(report.manifest, every - set(missing)).mcpu == picked


def test_a_faked_older_cpu_loads_its_own_library(report: CompileReport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "cpu_features", lambda: frozenset(f for f in HERE if not f.startswith("avx512")))
    runner = open_bundle(report.folder)
    assert runner.target.mcpu == "haswell"
    runner.close()


def test_a_cpu_that_runs_none_is_told_what_it_lacks(report: CompileReport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "cpu_features", lambda: HERE - {"avx512f", "avx2", "sse4_2"})
    with pytest.raises(IncompatibleError, match="without sse4_2"):
        open_bundle(report.folder)


def test_a_level_that_the_cpu_lacks_cannot_be_forced(report: CompileReport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "cpu_features", lambda: HERE - {"avx512f"})
    with pytest.raises(IncompatibleError, match="avx512f"):
        open_bundle(report.folder, level="skylake-avx512")
    with pytest.raises(ConfigError, match="haswell"):
        open_bundle(report.folder, level="znver4")


def test_the_edge_runner_picks_too(report: CompileReport) -> None:
    from lab.runtime.edge import run_bundle

    x = np.random.default_rng(1).standard_normal((2, 1, 6, 6)).astype(np.float32)
    runner = open_bundle(report.folder)
    np.testing.assert_allclose(run_bundle(report.folder, {"x": x})["y"], runner.run({"x": x})["y"], atol=1e-6)
    runner.close()


def test_doctor_tells_what_is_picked(report: CompileReport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "fat").symlink_to(report.folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(host, "cpu_features", lambda: frozenset(f for f in HERE if not f.startswith("avx512")))
    (found,) = doctor._fat_bundles()
    assert found.detail == "holds skylake-avx512, haswell, x86-64-v2; this CPU picks haswell"


def test_impossible_sets_of_levels_are_refused() -> None:
    with pytest.raises(ConfigError, match="different"):
        resolve_target("x86:haswell,haswell")
    with pytest.raises(ConfigError, match="fma4"):
        resolve_target("x86:bdver4,skylake-avx512")
    with pytest.raises(ConfigError, match="knows no"):
        resolve_target("x86:haswell,nosuchcpu")


def test_levels_and_parts_are_not_combined(report: CompileReport, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be combined"):
        compile_file(report.folder.parent / "model.onnx", FAT, tmp_path / "b", CompileOptions(partial=True))
