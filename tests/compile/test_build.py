"""An ONNX file in, executables and their report out; what fails falls back in the open."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lab.artifacts.files import sha256_file
from lab.compile import schedules
from lab.compile.build import compile_onnx
from lab.compile.link import write_library
from lab.compile.report import KernelReport, KernelRow, render
from lab.compile.targets import resolve_target
from lab.core.errors import ConfigError, MissingToolError, UnsupportedError
from tests.compile.graphs import Graph, residual_network


def quiet(message: str) -> None:
    """No progress lines."""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return residual_network(tmp_path_factory.mktemp("onnx") / "network.onnx")


def small(path: Path) -> Path:
    g = Graph(["batch", 3, 7, 5])
    return g.save(path, g.op("Relu", g.conv("x", 3, 16)))


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def test_a_residual_network_matches_onnx_runtime_without_naive_kernels(network, run_compiled, run_onnx) -> None:  # type: ignore[no-untyped-def]
    compiled = compile_onnx(network, resolve_target("x86"), batch_sizes=(3, 1), progress=quiet)
    assert list(compiled.executables) == [1, 3]
    assert compiled.report.naive() == []
    assert {"conv2d_direct", "matmul", "window"} <= set(compiled.report.num_kernels())
    assert compiled.flops[3] == pytest.approx(3 * compiled.flops[1], rel=1e-3)
    for size in (1, 3):
        x = image(size, 1, 12, 12)
        np.testing.assert_allclose(run_compiled(compiled, x, size=size)[0], run_onnx(network, {"x": x})[0], atol=1e-5)


def test_batch_norms_left_by_the_exporter_are_folded(network: Path) -> None:
    rows = compile_onnx(network, resolve_target("x86"), progress=quiet).report.rows
    assert sum(row.num_calls for row in rows if row.op_kind == "conv2d") == 6
    assert not [row.kernel for row in rows if "sqrt" in row.kernel or "norm" in row.kernel]


def test_several_inputs_and_outputs_keep_their_order(tmp_path: Path, run_compiled, run_onnx) -> None:  # type: ignore[no-untyped-def]
    from onnx import TensorProto, helper

    g = Graph(["batch", 5])
    g.inputs.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5]))
    path = g.save(tmp_path / "m.onnx", g.op("Sub", "x", "y"), g.op("Softmax", "y", axis=1))
    compiled = compile_onnx(path, resolve_target("x86"), batch_sizes=(2,), progress=quiet)
    x, y = image(2, 5), image(2, 5) + 1
    for actual, expected in zip(run_compiled(compiled, x, y, size=2), run_onnx(path, {"x": x, "y": y}), strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_same_input_same_bytes(tmp_path: Path) -> None:
    path = small(tmp_path / "m.onnx")
    libraries = []
    for name in ("a", "b"):
        (entry,) = write_library(compile_onnx(path, resolve_target("x86"), progress=quiet), tmp_path / name)
        assert (entry.library, entry.batch_size, entry.function) == ("model_b1.so", 1, "main")
        libraries.append((tmp_path / name / entry.library).read_bytes())
    assert libraries[0] == libraries[1]


def test_same_bytes_from_another_process(tmp_path: Path) -> None:
    """Python orders sets anew in each process: none of them may reach the library."""
    path = small(tmp_path / "m.onnx")
    script = (
        "import sys; from pathlib import Path; from lab.compile.build import compile_onnx;"
        "from lab.compile.link import write_library;"
        "from lab.compile.targets import resolve_target;"
        "write_library(compile_onnx(Path(sys.argv[1]), resolve_target('x86'), progress=str), Path(sys.argv[2]))"
    )
    digests = set()
    for seed in ("1", "2"):
        folder = tmp_path / seed
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", script, str(path), str(folder)], check=True, env=environment)
        digests.add(sha256_file(folder / "model_b1.so"))
    assert len(digests) == 1


def test_a_rule_that_fails_is_reported_and_the_next_one_used(  # type: ignore[no-untyped-def]
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_compiled, run_onnx
) -> None:
    path = small(tmp_path / "m.onnx")
    entries = {name: "tests.compile.test_build:broken_rule" if name == "conv2d_direct" else entry
               for name, entry in schedules.CPU_RULES.entries.items()}  # fmt: skip
    monkeypatch.setattr(schedules.CPU_RULES, "entries", entries)
    compiled = compile_onnx(path, resolve_target("x86"), progress=quiet)
    (row,) = [row for row in compiled.report.rows if row.op_kind == "conv2d"]
    assert row.schedule != "naive"
    assert "conv2d_direct: failed: no such luck" in row.reason
    x = image(1, 3, 7, 5)
    np.testing.assert_allclose(run_compiled(compiled, x, size=1)[0], run_onnx(path, {"x": x})[0], atol=1e-5)


def broken_rule(kernel: object, machine: object) -> None:
    raise RuntimeError("no such luck")


def test_a_schedule_that_does_not_compile_goes_back_to_naive_loops(  # type: ignore[no-untyped-def]
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_compiled, run_onnx
) -> None:
    path = small(tmp_path / "m.onnx")
    monkeypatch.setattr(schedules.CPU_RULES, "entries", {"uncompilable": "tests.compile.test_build:uncompilable_rule"})
    compiled = compile_onnx(path, resolve_target("x86"), progress=quiet)
    assert all(row.is_naive for row in compiled.report.rows)
    assert all("scheduled form does not compile" in row.reason for row in compiled.report.rows)
    x = image(1, 3, 7, 5)
    np.testing.assert_allclose(run_compiled(compiled, x, size=1)[0], run_onnx(path, {"x": x})[0], atol=1e-5)


def uncompilable_rule(kernel, machine):  # type: ignore[no-untyped-def]
    """Binds a CPU loop to a GPU thread, which no CPU code generator accepts."""
    from tvm.s_tir import Schedule

    from lab.compile.schedules.kernel import Scheduled, blocks_of

    sch = Schedule(kernel.func)
    sch.bind(sch.get_loops(blocks_of(sch)[-1].handle)[1], "threadIdx.x")
    return Scheduled(sch.mod["main"])


def test_no_rule_left_means_naive_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {"elementwise": schedules.CPU_RULES.entries["elementwise"]}
    monkeypatch.setattr(schedules.CPU_RULES, "entries", entries)
    report = compile_onnx(small(tmp_path / "m.onnx"), resolve_target("x86"), progress=quiet).report
    (name,) = report.naive()
    assert "conv2d" in name
    assert "naive: " + name in report.summary()
    (row,) = [row for row in report.rows if row.is_naive]
    assert row.reason == "elementwise: a block reduces"


def test_batch_sizes_that_cannot_be(tmp_path: Path) -> None:
    g = Graph([2, 3])
    path = g.save(tmp_path / "m.onnx", g.op("Relu", "x"))
    assert list(compile_onnx(path, resolve_target("x86"), progress=quiet).executables) == [0]
    with pytest.raises(ConfigError, match="no dynamic batch"):
        compile_onnx(path, resolve_target("x86"), batch_sizes=(1, 4), progress=quiet)
    with pytest.raises(ConfigError, match="positive"):
        compile_onnx(path, resolve_target("x86"), batch_sizes=(0,), progress=quiet)


def test_unsupported_operators_are_refused_before_any_work(tmp_path: Path) -> None:
    g = Graph([2, 4, 4])
    path = g.save(tmp_path / "m.onnx", g.op("Det", "x"))
    with pytest.raises(UnsupportedError, match="Det x1"):
        compile_onnx(path, resolve_target("x86"), progress=quiet)


def test_a_missing_cross_linker_names_the_way_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small(tmp_path / "m.onnx")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MissingToolError, match="make setup-arm"):
        compile_onnx(path, resolve_target("arm"), progress=quiet)
    with pytest.raises(MissingToolError, match="compiler"):
        compile_onnx(path, resolve_target("x86"), progress=quiet)


@pytest.mark.arm
@pytest.mark.parametrize("core", ["cortex-a72", "neoverse-n1"])
def test_arm_library_is_an_aarch64_elf(tmp_path: Path, core: str, network: Path) -> None:
    target = resolve_target(f"arm:{core}")
    if shutil.which(str(target.linker)) is None:
        pytest.skip("no ARM cross-compiler: make setup-arm")
    compiled = compile_onnx(network, target, progress=quiet)
    assert compiled.report.naive() == []
    (entry,) = write_library(compiled, tmp_path)
    header = (tmp_path / entry.library).read_bytes()[:20]
    assert header[:4] == b"\x7fELF"
    assert int.from_bytes(header[18:20], "little") == 183  # EM_AARCH64


def test_cuda_compiles_without_a_gpu(network: Path) -> None:
    from lab.compile.targets.cuda_tools import prepare

    try:
        prepare("sm_90")
    except MissingToolError as error:
        pytest.skip(error.what)
    report = compile_onnx(network, resolve_target("cuda:sm_90"), progress=quiet).report
    assert report.naive() == []
    assert "gemm" in report.num_kernels()


def test_report_totals_and_table() -> None:
    rows = (
        KernelRow("conv", "conv2d", "conv2d_direct", flops=100, num_bytes=8, num_calls=2),
        KernelRow("odd", "scan", "naive", reason="nothing fits", flops=50),
        KernelRow("odd", "scan", "naive", flops=100, batch_size=2),
    )
    report = KernelReport(rows)
    assert report.flops() == {1: 250, 2: 100}
    assert report.num_kernels() == {"naive": 2, "conv2d_direct": 1}
    assert report.naive() == ["odd"]
    assert KernelReport.from_dict(report.to_dict()) == report
    assert render(report).row_count == 3
