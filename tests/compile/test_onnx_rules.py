"""ONNX's rules that TVM's importer misses: converted by ours, or refused with the node's name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lab.compile.build import compile_onnx
from lab.compile.frontend.converters import CONVERTERS
from lab.compile.targets import resolve_target
from lab.core.errors import UnsupportedError


def one_node(
    path: Path, op: str, x: np.ndarray, *constants: np.ndarray, outputs: tuple[int, ...] = (TensorProto.FLOAT,),
    **attributes: object,
) -> Path:  # fmt: skip
    names = [f"c{i}" for i in range(len(constants))]
    results = [f"y{i}" for i in range(len(outputs))]
    node = helper.make_node(op, ["x", *names], results, name="the_node", **attributes)
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", kind, x.shape)],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in zip(results, outputs, strict=True)],
        [numpy_helper.from_array(array, name) for name, array in zip(names, constants, strict=True)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def quiet(message: str) -> None:
    pass


RNG = np.random.default_rng(4)
X = RNG.standard_normal((2, 3, 4)).astype(np.float32)
IMAGE = RNG.standard_normal((1, 2, 3, 3)).astype(np.float32)
WEIGHT = RNG.standard_normal((2, 2, 3, 3)).astype(np.float32)
HIDDEN = np.where(np.arange(24).reshape(2, 3, 4) < 4, -np.inf, X).astype(np.float32)
BOOL, FLOAT, INT64 = TensorProto.BOOL, TensorProto.FLOAT, TensorProto.INT64

SERIES = RNG.standard_normal((2, 6, 19)).astype(np.float32)
TAPS = RNG.standard_normal((8, 3, 5)).astype(np.float32)
GROUPED = RNG.standard_normal((1, 68, 9, 9)).astype(np.float32)
GROUPED_WEIGHT = (RNG.standard_normal((40, 17, 3, 3)) / 12).astype(np.float32)

RIGHT: dict[str, tuple] = {  # type: ignore[type-arg]
    "convolution of a series": (
        "Conv", SERIES, (TAPS, TAPS[:, 0, 0]), {"group": 2, "strides": [2], "dilations": [2], "pads": [3, 1]}
    ),
    "convolution in groups": ("Conv", GROUPED, (GROUPED_WEIGHT,), {"group": 4, "strides": [2, 1], "pads": [1] * 4}),
    "convolution to a shape": ("ConvTranspose", IMAGE, (WEIGHT,), {"output_shape": [6, 7], "strides": [2, 2]}),
    "convolution to a larger shape": ("ConvTranspose", IMAGE, (WEIGHT,), {"output_shape": [8, 8], "strides": [2, 2]}),
    "mask of dropout": ("Dropout", X, (), {"outputs": (FLOAT, BOOL)}),
    "expansion of both sides": ("Expand", X[:, :, :1], (np.array([5, 1, 1, 4]),), {}),
    "infinity": ("IsInf", HIDDEN, (), {"outputs": (BOOL,), "detect_positive": 0}),
    "mean of a layer": (
        "LayerNormalization", X, (np.ones((3, 4), np.float32), X[0]), {"axis": 1, "outputs": (FLOAT, FLOAT, FLOAT)}
    ),
    "maximum of nothing": ("ReduceMax", HIDDEN, (np.array([2]),), {}),
    "minimum without its axes": ("ReduceMin", -HIDDEN, (np.array([0, -1]),), {"keepdims": 0}),
    "shape": ("Shape", X, (), {"outputs": (INT64,), "start": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_equal_to_onnx_runtime(name: str, tmp_path: Path, run_compiled, run_onnx) -> None:  # type: ignore[no-untyped-def]
    op, x, constants, options = RIGHT[name]
    path = one_node(tmp_path / "model.onnx", op, x, *constants, **options)
    compiled = compile_onnx(path, resolve_target("x86"), progress=quiet)
    found, expected = run_compiled(compiled, x, size=0), run_onnx(path, {"x": x})
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


SIZES = (np.array([], np.float32), np.array([1, 1, 0.7, 0.7], np.float32))
ONES = [np.ones(2, np.float32)] * 4
REFUSED: dict[str, tuple] = {  # type: ignore[type-arg]
    "antialias": ("Resize", IMAGE, (np.array([], np.float32), np.array([1, 1, 2, 2], np.float32)), {"antialias": 1}),
    "no whole sizes": ("Resize", IMAGE, SIZES, {"mode": "linear"}),
    "training_mode": ("BatchNormalization", IMAGE, ONES, {"training_mode": 1, "outputs": (FLOAT, FLOAT, FLOAT)}),
    "fmod": ("Mod", X, (X,), {}),
}


@pytest.mark.parametrize("told", REFUSED)
def test_what_would_be_converted_wrongly_is_refused_by_name(told: str, tmp_path: Path) -> None:
    op, x, constants, options = REFUSED[told]
    path = one_node(tmp_path / "model.onnx", op, x, *constants, **options)
    with pytest.raises(UnsupportedError, match=rf"(?s){op} \(the_node\).*{told}"):
        compile_onnx(path, resolve_target("x86"), progress=quiet)


def test_a_convolution_in_groups_is_tiled(tmp_path: Path) -> None:
    op, x, constants, options = RIGHT["convolution in groups"]
    path = one_node(tmp_path / "model.onnx", op, x, *constants, **options)
    assert compile_onnx(path, resolve_target("x86"), progress=quiet).report.num_kernels()["conv2d_direct"] == 1


def test_expansion_to_a_computed_shape_is_refused(tmp_path: Path) -> None:
    shape = helper.make_tensor_value_info("shape", INT64, [3])
    graph = helper.make_graph(
        [helper.make_node("Expand", ["x", "shape"], ["y"])], "g",
        [helper.make_tensor_value_info("x", FLOAT, [3, 1]), shape],
        [helper.make_tensor_value_info("y", FLOAT, ["a", "b", "c"])],
    )  # fmt: skip
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    with pytest.raises(UnsupportedError, match="run time"):
        compile_onnx(path, resolve_target("x86"), progress=quiet)


def test_every_converter_can_be_loaded() -> None:
    assert all(callable(CONVERTERS[name]) for name in CONVERTERS)
