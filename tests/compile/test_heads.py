"""Detection and segmentation through the compiler: x86, emulated ARM, CUDA code; every kernel with a schedule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lab.artifacts.manifest import Manifest
from lab.compile.build import Compiled, compile_onnx
from lab.compile.link import write_library
from lab.compile.targets import resolve_target
from lab.core.interfaces import Runner
from lab.core.signature import Signature
from lab.runtime import open_bundle
from lab.runtime.edge import EmulatedRunner
from lab.runtime.onnx_runner import OnnxRunner
from lab.runtime.toolchain import SETUP_ARM, toolchain
from tests.compile.heads import DETECTION, SEGMENTATION, Detector, Segmenter, Skips, export, images

NETWORKS: dict[str, tuple[type[nn.Module], Signature]] = {
    "detection": (Detector, DETECTION), "segmentation": (Segmenter, SEGMENTATION)
}  # fmt: skip


@pytest.fixture(scope="module", params=NETWORKS)
def onnx_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    network, signature = NETWORKS[request.param]
    return export(network(), signature, tmp_path_factory.mktemp(request.param))


def bundle_of(path: Path, compiled: Compiled, folder: Path) -> Path:
    entries = write_library(compiled, folder)
    manifest = Manifest(
        "bundle", "heads", compiled.signature, target=compiled.target.info(), entries=tuple(entries)
    )  # fmt: skip
    manifest.with_files(folder, [entry.library for entry in entries]).save(folder)
    return folder


def compiled_for(path: Path, target: str, *batch_sizes: int) -> Compiled:
    compiled = compile_onnx(path, resolve_target(target), batch_sizes=batch_sizes, progress=lambda message: None)
    assert compiled.report.naive() == []
    assert not [row for row in compiled.report.rows if ": failed" in row.reason]
    assert compiled.report.notes == ()
    return compiled


def assert_same(path: Path, runner: Runner, num_samples: int) -> None:
    expected = OnnxRunner(path, num_threads=1).run({"image": images(num_samples)})
    actual = runner.run({"image": images(num_samples)})
    assert list(actual) == list(expected)
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype
        np.testing.assert_allclose(actual[name], array, atol=2e-5, err_msg=name)
    if "num_detections" in expected:
        assert expected["num_detections"].min() > 2


def test_this_machine(onnx_path: Path, tmp_path: Path) -> None:
    """Three samples over batches of two, the last one padded, here and in the edge runner; padding disturbs nothing."""
    compiled = compiled_for(onnx_path, "x86", 2)
    schedules = {row.kernel: row.schedule for row in compiled.report.rows}
    if "nms_keep" in schedules:
        assert schedules["nms_keep"] == schedules["top_k"] == schedules["top_k1"] == "rows"
    else:
        assert sorted(kernel for kernel, rule in schedules.items() if rule == "resize") == ["resize", "resize1"]
    assert any("border skipped" in row.reason for row in compiled.report.rows)
    bundle = bundle_of(onnx_path, compiled, tmp_path / "bundle")
    runner = open_bundle(bundle)
    assert runner.signature == OnnxRunner(onnx_path).signature
    for num_samples in (1, 2, 5):
        assert_same(onnx_path, runner, num_samples)
    assert_same(onnx_path, EmulatedRunner(bundle), 3)


def test_an_addition_fuses_with_the_resize_before_it(tmp_path: Path) -> None:
    torch.manual_seed(5)
    path = export(Skips(), SEGMENTATION, tmp_path)
    compiled = compiled_for(path, "x86", 2)
    assert_same(path, open_bundle(bundle_of(path, compiled, tmp_path / "bundle")), 3)


@pytest.mark.arm
def test_arm(onnx_path: Path, tmp_path: Path) -> None:
    tools = toolchain()
    if not (tools.arm_compiler and tools.qemu_arm and tools.arm_sysroot):
        pytest.skip(f"no ARM cross-compiler or emulator here: {SETUP_ARM}")
    compiled = compiled_for(onnx_path, "arm:cortex-a72", 2)
    assert_same(onnx_path, EmulatedRunner(bundle_of(onnx_path, compiled, tmp_path / "bundle")), 3)


def test_cuda_code(onnx_path: Path) -> None:
    compiled = compiled_for(onnx_path, "cuda:sm_90", 1)
    if "boxes" in [spec.name for spec in compiled.signature.outputs]:
        assert "nms_keep" in {row.kernel for row in compiled.report.rows if row.schedule == "rows"}
