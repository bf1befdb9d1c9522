"""Graphs as other exporters write them: brought to operators the compiler knows, equal to ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from lab.compile.build import compile_onnx
from lab.compile.targets import resolve_target
from lab.core.errors import UnsupportedError

HEAD = '<ir_version: 8, opset_import: ["": {opset}, "com.microsoft": 1]> g '
BYTES = "float s = {0.0513}, uint8 z = {128}"

GRAPHS: dict[str, tuple[int, str]] = {
    "Celu": (18, "(float[2,3,7] x) => (float[2,3,7] y) { y = Celu <alpha = 0.7> (x) }"),
    "Swish": (24, "(float[2,3,7] x) => (float[2,3,7] y) { y = Swish <alpha = 1.5> (x) }"),
    "Attention of grouped heads": (
        23,
        "(float[2,4,4,8] x, float[2,2,6,8] k) => (float[2,4,4,8] y) { y = Attention <is_causal = 1> (x, k, k) }",
    ),
    "Attention with a past and without a mask": (
        23,
        """(float[1,2,3,8] x, float[1,2,2,8] p) => (float[1,2,3,8] y)
        { y, key, value = Attention (x, x, x, , p, p) }""",
    ),
    "RotaryEmbedding": (
        23, "(float[1,2,3,8] x, float[1,3,4] c, float[1,3,4] s) => (float[1,2,3,8] y) { y = RotaryEmbedding (x, c, s) }"
    ),
    "CenterCropPad": (
        18, "(float[4,5] x) => (float[2,7] y) <int64[2] shape = {2, 7}> { y = CenterCropPad (x, shape) }"
    ),
    "LpNormalization": (18, "(float[2,3,4] x) => (float[2,3,4] y) { y = LpNormalization <axis = 1, p = 1> (x) }"),
    "SAME_LOWER": (
        18,
        """(float[1,2,8,9] x) => (float[1,2,4,5] y)
        { y = MaxPool <kernel_shape = [2, 2], strides = [2, 2], auto_pad = "SAME_LOWER"> (x) }""",
    ),
    "Upsample": (
        9,
        """(float[1,2,6,8] x) => (float[1,2,12,24] y) <float[4] scales = {1, 1, 2, 3}>
        { y = Upsample <mode = "linear"> (x, scales) }""",
    ),
    "Resize of opset 10": (
        10,
        """(float[1,2,6,8] x) => (float[1,2,12,16] y) <float[4] scales = {1, 1, 2, 2}>
        { y = Resize <mode = "nearest"> (x, scales) }""",
    ),
    "Resize of channels last": (
        13,
        """(float[1,4,5,3] x) => (float[1,8,10,3] y) <float[4] scales = {1, 2, 2, 1}, float[1] roi = {0}>
        { y = Resize <mode = "linear"> (x, , scales) }""",
    ),
    "Resize of named axes": (
        18,
        """(float[1,2,4,4] x) => (float[1,2,8,6] y) <int64[2] sizes = {8, 6}>
        { y = Resize <mode = "cubic", axes = [2, 3]> (x, , , sizes) }""",
    ),
    "Slice with attributes": (
        9, "(float[2,3,5] x) => (float[2,3,3] y) { y = Slice <axes = [0, 2], starts = [0, 1], ends = [9, -1]> (x) }"
    ),
    "Pow by a whole number": (
        18, "(float[2,3] x) => (float[2,3] y) <int64 two = {2}> { y = Pow (x, two) }"
    ),
    "Pow of whole numbers": (
        18,
        """(float[2,3] x) => (float[2,3] y) <int64 three = {3}, float ten = {10}>
        { t = Mul (x, ten) i = Cast <to = 7> (t) p = Pow (i, three) y = Cast <to = 1> (p) }""",
    ),
    "OneHot": (
        18,
        """(float[2,3] x) => (float[2,4,3] y) <int64 depth = {4}, float[2] values = {-1, 2}>
        { i = Cast <to = 7> (x) y = OneHot <axis = 1> (i, depth, values) }""",
    ),
    "If of a shape": (
        18,
        """(float[2,1,3] x) => (float[2,3] y) <int64 one = {1}>
        { s = Shape (x) n = Gather (s, one) c = Equal (n, one)
          y = If (c) <then_branch = a () => (float[2,3] t) <int64[1] axis = {1}> { t = Squeeze (x, axis) },
                      else_branch = b () => (float[2,1,3] e) { e = Identity (x) }> }""",
    ),
    "Loop of known length": (
        18,
        """(float[2,3] x) => (float[2,3] y, float[4,2,3] all) <int64 trips = {4}, bool go = {1}>
        { y, all = Loop (trips, go, x) <body = b (int64 i, bool c, float[2,3] h) =>
            (bool k, float[2,3] n, float[2,3] s)
            { f = Cast <to = 1> (i) n = Add (h, f) s = Mul (n, x) k = Identity (c) }> }""",
    ),
    "Scan backwards": (
        18,
        """(float[3] h, float[3,5] x) => (float[3] last, float[3,5] all)
        { last, all = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_input_directions = [1],
            scan_output_axes = [1], scan_output_directions = [1],
            body = b (float[3] a, float[3] e) => (float[3] n, float[3] o) { n = Add (a, e) o = Tanh (n) }> (h, x) }""",
    ),
    "QLinearMatMul": (
        18,
        f"""(float[2,4] x) => (float[2,3] y) <{BYTES}, int8[4,3] w = {{1,-2,3,4,5,-6,7,8,9,10,11,-12}},
            float v = {{0.1}}, int8 o = {{0}}, float t = {{0.237}}>
        {{ q = QuantizeLinear (x, s, z) m = QLinearMatMul (q, s, z, w, v, o, t, z) y = DequantizeLinear (m, t, z) }}""",
    ),
    "QLinearConv with a bias": (
        18,
        f"""(float[1,1,5,5] x) => (float[1,2,5,5] y) <{BYTES},
            int8[2,1,3,3] w = {{1,2,3,4,5,6,7,8,9,-9,8,-7,6,-5,4,-3,2,-1}}, float[2] v = {{0.1, 0.02}},
            int8[2] o = {{0, 0}}, float t = {{0.237}}, int32[2] bias = {{100, -300}}>
        {{ q = QuantizeLinear (x, s, z) m = QLinearConv <pads = [1,1,1,1]> (q, s, z, w, v, o, t, z, bias)
          y = DequantizeLinear (m, t, z) }}""",
    ),
    "ConvInteger": (
        18,
        f"""(float[1,1,5,5] x) => (int32[1,1,3,3] y) <{BYTES}, int8[1,1,3,3] w = {{1,2,3,4,5,6,7,8,-9}}>
        {{ q = QuantizeLinear (x, s, z) y = ConvInteger (q, w, z) }}""",
    ),
    "QLinearAdd and QLinearGlobalAveragePool": (
        18,
        f"""(float[1,2,5,5] x) => (float[1,2,1,1] y) <{BYTES}, float t = {{0.0937}}>
        {{ q = QuantizeLinear (x, s, z) m = com.microsoft.QLinearAdd (q, s, z, q, s, z, t, z)
          p = com.microsoft.QLinearGlobalAveragePool (m, t, z, s, z) y = DequantizeLinear (p, s, z) }}""",
    ),
}  # fmt: skip


def saved(path: Path, name: str) -> tuple[Path, dict[str, np.ndarray]]:
    opset, text = GRAPHS[name]
    model = parser.parse_model(HEAD.replace("{opset}", str(opset)) + text)
    onnx.save(model, path / "model.onnx")
    rng = np.random.default_rng(3)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
    return path / "model.onnx", {n: rng.standard_normal(shape).astype(np.float32) for n, shape in shapes.items()}


def quiet(message: str) -> None:
    pass


@pytest.mark.parametrize("name", GRAPHS)
def test_equal_to_onnx_runtime(name: str, tmp_path: Path, run_compiled, run_onnx) -> None:  # type: ignore[no-untyped-def]
    path, feed = saved(tmp_path, name)
    compiled = compile_onnx(path, resolve_target("x86"), progress=quiet)
    found, expected = run_compiled(compiled, *feed.values(), size=0), run_onnx(path, feed)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


REFUSED = {
    "nearest with reflection": (
        16,
        """(float[1,1,4,4] x, float[1,3,3,2] at) => (float[1,1,3,3] y)
        { y = GridSample <mode = "nearest", padding_mode = "reflection"> (x, at) }""",
    ),
    "ceil_mode": (
        18,
        "(float[1,1,8,9] x) => (float[1,1,n,m] y) { y = LpPool <kernel_shape=[3,3], strides=[2,2], ceil_mode=1> (x) }",
    ),
    "no axes": (18, "(float[2,3] x) => (float[2,3] y) { y = ReduceL1 <noop_with_empty_axes = 1> (x) }"),
    "whole numbers": (18, "(int32[2,3] x) => (int32[1,1] y) { y = ReduceMean (x) }"),
    "samples or channels": (
        13,
        """(float[1,2,4,4] x) => (float[1,4,8,8] y) <float[4] scales = {1, 2, 2, 2}>
        { y = Resize <mode = "nearest"> (x, , scales) }""",
    ),
    "Loop": (
        18,
        """(float[3] x, int64 trips) => (float[3] y) <bool go = {1}>
        { y = Loop (trips, go, x) <body = b (int64 i, bool c, float[3] h) => (bool k, float[3] n)
            { n = Add (h, x) k = Identity (c) }> }""",
    ),
}  # fmt: skip


@pytest.mark.parametrize("told", REFUSED)
def test_refused_by_name(told: str, tmp_path: Path) -> None:
    opset, text = REFUSED[told]
    path = tmp_path / "model.onnx"
    onnx.save(parser.parse_model(HEAD.replace("{opset}", str(opset)) + text), path)
    with pytest.raises(UnsupportedError) as refused:
        compile_onnx(path, resolve_target("x86"), progress=quiet)
    assert told in str(refused.value)


def test_outputs_without_a_shape(tmp_path: Path, run_compiled) -> None:  # type: ignore[no-untyped-def]
    model = parser.parse_model(HEAD.replace("{opset}", "18") + "(float[2,3] x) => (float y) { y = Relu (x) }")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, tmp_path / "model.onnx")
    x = np.array([[-1, 2, -3], [4, -5, 6]], np.float32)
    compiled = compile_onnx(tmp_path / "model.onnx", resolve_target("x86"), progress=quiet)
    np.testing.assert_array_equal(run_compiled(compiled, x, size=0)[0], x.clip(0))
