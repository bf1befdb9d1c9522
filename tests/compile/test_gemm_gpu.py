"""The GPU's matrix products: which tiles are chosen, that their code assembles, and on a GPU that they are right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lab.artifacts.manifest import Manifest
from lab.compile.build import Compiled, compile_onnx
from lab.compile.link import write_library
from lab.compile.schedules import gemm_plan as gemm
from lab.compile.targets import resolve_target
from lab.compile.targets.cuda_tools import prepare
from lab.compile.targets.target import has_gpu
from lab.core.errors import ConfigError, MissingToolError
from lab.core.signature import Signature
from lab.runtime import open_bundle
from tests.compile.graphs import Graph

H200 = 132
ELF, EM_CUDA = b"\x7fELF", 190
SIMT, HALVES = "float32", "float16"


def quiet(message: str) -> None:
    pass


@pytest.fixture(scope="module", autouse=True)
def _cuda_compiler() -> None:
    try:
        prepare("sm_90")
    except MissingToolError as error:
        pytest.skip(error.what)


# rows, cols, window, depth; what one kernel took on an H200 (microseconds)
MEASURED = [
    (gemm.Product(1, 3136, 64, 9, 64, SIMT), gemm.Tile(32, 64, 32, 4, 4, 2), 18.1),
    (gemm.Product(1, 196, 256, 9, 256, SIMT), gemm.Tile(64, 64, 16, 8, 8, 16), 17.4),
    (gemm.Product(1, 49, 512, 9, 512, SIMT), gemm.Tile(32, 64, 32, 4, 4, 16), 17.0),
    (gemm.Product(1, 1444, 512, 9, 512, SIMT), gemm.Tile(128, 64, 16, 8, 8, 4), 203.7),
    (gemm.Product(1, 3136, 256, 1, 64, SIMT), gemm.Tile(32, 64, 32, 4, 4, 1), 6.7),
    (gemm.Product(1, 196, 256, 9, 256, HALVES), gemm.Tile(64, 64, 32, 32, 32, 8), 9.0),
    (gemm.Product(1, 1444, 512, 9, 512, HALVES), gemm.Tile(64, 64, 32, 32, 32, 1), 64.0),
    (gemm.Product(16, 196, 256, 9, 256, HALVES), gemm.Tile(128, 128, 32, 64, 64, 2), 28.3),
]


@pytest.mark.parametrize(("size", "tile", "measured_us"), MEASURED)
def test_the_model_of_time_agrees_with_measurements(size: gemm.Product, tile: gemm.Tile, measured_us: float) -> None:
    assert gemm.estimate_us(size, tile, H200) == pytest.approx(measured_us, rel=0.4)


def conv_graph(
    path: Path, channels: int = 64, size: int = 7, filters: int = 64, kernel: int = 3, **attributes: object
) -> Path:
    g = Graph([1, channels, size, size])
    attributes = {"pads": [kernel // 2] * 4} | attributes
    return g.save(path, g.op("Relu", g.conv("x", channels, filters, (kernel, kernel), **attributes)))


def compiled_for_cuda(path: Path, precision: str = SIMT) -> Compiled:
    return compile_onnx(path, resolve_target("cuda:sm_90", precision), progress=quiet)


def test_few_pixels_and_deep_channels_split_the_sum(tmp_path: Path) -> None:
    deep, flat = (
        next(row for row in compiled_for_cuda(path).report.rows if row.schedule == "gemm")
        for path in (
            conv_graph(tmp_path / "deep.onnx", 512, 7, 512),
            conv_graph(tmp_path / "flat.onnx", 32, 112, 64),
        )
    )
    assert "parts" in deep.reason
    assert "parts" not in flat.reason


@pytest.mark.parametrize("precision", [SIMT, HALVES])
def test_a_bundle_holds_machine_code_of_its_kernels(tmp_path: Path, precision: str) -> None:
    compiled = compiled_for_cuda(conv_graph(tmp_path / "model.onnx"), precision)
    assert compiled.report.naive() == []
    rows = [row for row in compiled.report.rows if row.schedule == "gemm"]
    assert [("tensor cores" in row.reason) for row in rows] == [precision == HALVES]
    (entry,) = write_library(compiled, tmp_path / "bundle")
    assert entry.files == ("model_b0.so", "model_b0.cubin")
    code = (tmp_path / "bundle" / "model_b0.cubin").read_bytes()
    assert code[:4] == ELF
    assert int.from_bytes(code[18:20], "little") == EM_CUDA


def test_halves_keep_the_types_of_inputs_and_outputs(tmp_path: Path) -> None:
    compiled = compiled_for_cuda(conv_graph(tmp_path / "model.onnx"), HALVES)
    assert [spec.dtype for spec in (*compiled.signature.inputs, *compiled.signature.outputs)] == ["float32"] * 2
    assert compiled.target.name == "cuda:sm_90+float16"


@pytest.mark.parametrize(("target", "precision"), [("x86", HALVES), ("cuda:sm_90", "int4")])
def test_a_precision_without_kernels_is_refused(target: str, precision: str) -> None:
    with pytest.raises(ConfigError, match=precision):
        resolve_target(target, precision)


CASES: dict[str, Callable[[Path], Path]] = {
    "three channels": lambda path: conv_graph(path, 3, 31, 24, 7, strides=[2, 2]),
    "odd channels": lambda path: conv_graph(path, 33, 9, 50),
    "whole slices": lambda path: conv_graph(path, 64, 14, 128, strides=[2, 2]),
    "deep": lambda path: conv_graph(path, 512, 7, 512),
    "dilated": lambda path: conv_graph(path, 64, 15, 64, pads=[2] * 4, dilations=[2, 2]),
    "depthwise": lambda path: conv_graph(path, 32, 13, 32, group=32),
    "pointwise": lambda path: conv_graph(path, 96, 11, 40, 1),
}


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("precision", [SIMT, HALVES])
def test_equal_to_onnx_runtime_on_a_gpu(name: str, precision: str, tmp_path: Path, run_onnx) -> None:  # type: ignore[no-untyped-def]
    if not has_gpu():
        pytest.skip("no CUDA device")
    path = CASES[name](tmp_path / "model.onnx")
    compiled = compile_onnx(path, resolve_target("cuda", precision), progress=quiet)
    entries = tuple(write_library(compiled, tmp_path / "bundle"))
    signature: Signature = compiled.signature
    manifest = Manifest("bundle", name, signature, target=compiled.target.info(), entries=entries)
    manifest.with_files(tmp_path / "bundle", [file for entry in entries for file in entry.files]).save(
        tmp_path / "bundle"
    )
    feed = signature.example_inputs({}, seed=1)
    (found,) = open_bundle(tmp_path / "bundle").run(feed).values()
    expected = run_onnx(path, feed)[0]
    assert np.abs(found - expected).max() <= (1e-5 if precision == SIMT else 1e-2) * np.abs(expected).max()
