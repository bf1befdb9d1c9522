"""Each pass: the graph before and after, and the same output."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
from hypothesis import given
from hypothesis import strategies as st
from tvm import relax

from lab.compile.build import compile_onnx
from lab.compile.frontend.onnx_import import import_model
from lab.compile.frontend.shapes import signature_of
from lab.compile.passes import convert_layout as layout_pass
from lab.compile.passes.channels_last import compose
from lab.compile.passes.convert_layout import convert_layout
from lab.compile.passes.fold_batch_norm import fold_batch_norm
from lab.compile.passes.hoist_transposes import hoist_transposes
from lab.compile.passes.pack_weights import pack
from lab.compile.passes.pad_channels import pad_channels, padded
from lab.compile.passes.schedule_kernels import schedule_kernels
from lab.compile.pipeline import Dump, fuse_passes, layout, lower
from lab.compile.schedules.kernel import Packing
from lab.compile.schedules.tile import vector_lengths
from lab.compile.targets import resolve_target
from tests.compile.graphs import Graph, residual_network


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def evaluate(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return np.asarray(onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0])


@pytest.mark.parametrize("with_bias", [True, False])
def test_fold_batch_norm(with_bias: bool) -> None:
    g = Graph([2, 3, 7, 5])
    x = g.conv("x", 3, 11) if with_bias else g.op("Conv", "x", g.weights(11, 3, 3, 3))
    model = g.model(g.op("Relu", g.batch_norm(x, 11)))
    image = g.rng.standard_normal((2, 3, 7, 5)).astype(np.float32)
    before = evaluate(model, image)
    assert operators(model) == ["Conv", "BatchNormalization", "Relu"]
    assert operators(fold_batch_norm(model)) == ["Conv", "Relu"]
    np.testing.assert_allclose(evaluate(model, image), before, atol=1e-6)


def test_other_batch_norms_become_a_product_and_a_sum() -> None:
    """After a convolution that something else reads too, and after none."""
    g = Graph([1, 3, 7, 5])
    conv = g.conv(g.batch_norm("x", 3), 3, 5)
    model = g.model(g.op("Add", conv, g.batch_norm(conv, 5)))
    image = g.rng.standard_normal((1, 3, 7, 5)).astype(np.float32)
    before = evaluate(model, image)
    assert operators(fold_batch_norm(model)) == ["Mul", "Add", "Conv", "Mul", "Add", "Add"]
    np.testing.assert_allclose(evaluate(model, image), before, atol=1e-5)


def test_batch_norms_that_are_not_constant_stay() -> None:
    g = Graph([1, 3, 7, 5])
    scale = g.op("ReduceMean", "x", g.constant(np.array([0, 2, 3])), keepdims=0)
    model = g.model(g.op("BatchNormalization", "x", scale, *(g.weights(3) for _ in range(3))))
    assert operators(fold_batch_norm(model)) == ["ReduceMean", "BatchNormalization"]
    old = Graph([1, 3, 7, 5])
    assert operators(fold_batch_norm(old.model(old.batch_norm("x", 3), opset=6))) == ["BatchNormalization"]


@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4), axis=st.integers(0, 3), blocks=st.integers(1, 3),
    tile=st.integers(1, 4),
)  # fmt: skip
def test_pack_puts_blocks_first_and_lanes_last(shape: list[int], axis: int, blocks: int, tile: int) -> None:
    axis %= len(shape)
    shape[axis] = blocks * tile
    array = np.arange(int(np.prod(shape))).reshape(shape)
    packed = pack(array, Packing(axis, tile))
    others = shape[:axis] + shape[axis + 1 :]
    assert packed.shape == (blocks, *others, tile)
    index = tuple(size - 1 for size in others)
    block, lane = blocks - 1, tile // 2
    assert packed[(block, *index, lane)] == array[(*index[:axis], block * tile + lane, *index[axis:])]


def imported(g: Graph, *outputs: str) -> tvm.IRModule:
    model = g.model(*outputs)
    return import_model(model, signature_of(model), 1)


def test_convert_layout_transposes_only_at_the_edges() -> None:
    g = Graph([1, 3, 7, 5])
    x = g.op("Relu", g.conv("x", 3, 8, pads=[1, 1, 1, 1]))
    mod = imported(g, g.op("Add", x, g.conv(x, 8, 8, (1, 1))))
    converted, note = convert_layout(mod, "NHWC")
    assert note == ""
    layouts = [
        line.split("data_layout=")[1].split(",")[0] for line in converted.script().splitlines() if "nn.conv2d" in line
    ]
    assert layouts == ['"NHWC"', '"NHWC"']
    weights_folded = fused_module(mod)
    calls = [line for line in weights_folded["main"].script().splitlines() if "call_tir" in line]
    assert sum("transpose" in call for call in calls) == 2  # input and output, none between


def test_nchw_targets_keep_their_layout() -> None:
    g = Graph([1, 3, 7, 5])
    mod = imported(g, g.conv("x", 3, 8))
    assert convert_layout(mod, "NCHW")[0].same_as(mod)


def test_a_graph_without_convolutions_is_left_alone() -> None:
    g = Graph([1, 3])
    mod = imported(g, g.op("Relu", "x"))
    tvm.ir.assert_structural_equal(convert_layout(mod, "NHWC")[0], mod)


def test_a_layout_that_cannot_be_changed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(sinker: object, call: object) -> None:
        raise RuntimeError("no way")

    monkeypatch.setattr(layout_pass, "_convolution", fail)
    g = Graph([1, 3, 7, 5])
    mod = imported(g, g.conv("x", 3, 8))
    kept, note = convert_layout(mod, "NHWC")
    assert kept.same_as(mod)
    assert note.startswith("layout: kept NCHW")
    assert note.endswith("no way")


def test_transposes_sink_below_clip_and_cancel() -> None:
    g = Graph([1, 7, 5, 8])
    low, high = g.constant(np.float32(0)), g.constant(np.float32(6))
    x = g.op("Clip", g.op("Transpose", "x", perm=[0, 3, 1, 2]), low, high)
    mod = imported(g, g.op("Transpose", x, perm=[0, 2, 3, 1]))
    assert mod["main"].script().count("permute_dims") == 2
    sunk = tidy(convert_layout(mod, "NHWC")[0])
    assert sunk["main"].script().count("permute_dims") == 0
    assert sunk["main"].script().count("R.clip") == 1


def tidy(mod: tvm.IRModule) -> tvm.IRModule:
    t = relax.transform
    return tvm.transform.Sequential(
        [t.Normalize(), t.CanonicalizeBindings(), t.FoldConstant(), t.DeadCodeElimination()]
    )(mod)


SUNK = {
    "add a bias": lambda g, x: g.op("Add", x, g.weights(1, 8, 1, 1)),
    "add per column": lambda g, x: g.op("Add", x, g.weights(5)),
    "multiply by itself": lambda g, x: g.op("Mul", x, g.op("Sigmoid", x)),
    "max pool": lambda g, x: g.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    "average pool": lambda g, x: g.op("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "global pool": lambda g, x: g.op("GlobalAveragePool", x),
    "concat": lambda g, x: g.op("Concat", x, g.op("Relu", x), axis=1),
    "concat of rows": lambda g, x: g.op("Concat", x, g.op("Relu", x), axis=2),
    "softmax": lambda g, x: g.op("Softmax", x, axis=1),
    "slice": lambda g, x: g.op("Slice", x, *(g.constant(np.array(v)) for v in ([1], [6], [1], [2]))),
    "sum of squares": lambda g, x: g.op("ReduceSum", g.op("Mul", x, x), g.constant(np.array([1])), keepdims=1),
    "pad": lambda g, x: g.op("Pad", x, g.constant(np.array([0, 0, 1, 2, 0, 0, 0, 1])), g.constant(np.float32(3))),
    "resize": lambda g, x: g.op("Resize", x, "", g.constant(np.array([1, 1, 2, 3], np.float32)), mode="linear"),
    "product along columns": lambda g, x: g.op("MatMul", x, g.weights(5, 3)),
    "product along rows": lambda g, x: g.op("MatMul", g.weights(2, 7), x),
    "leaky": lambda g, x: g.op("LeakyRelu", x, alpha=0.2),
    "prelu": lambda g, x: g.op("PRelu", x, g.weights(8, 1, 1)),
    "broadcast": lambda g, x: g.op("Expand", g.op("GlobalAveragePool", x), g.constant(np.array([1, 8, 4, 3]))),
}


@pytest.mark.parametrize("name", SUNK)
def test_transposes_sink_below(name: str, tmp_path: Path, run_compiled, run_onnx) -> None:  # type: ignore[no-untyped-def]
    """Between two convolutions no transpose is left, and the output is the same."""
    from lab.compile.build import compile_onnx

    g = Graph([1, 3, 7, 5])
    x = SUNK[name](g, g.conv("x", 3, 8, pads=[1, 1, 1, 1]))
    channels = {"concat": 16, "slice": 3, "sum of squares": 1}.get(name, 8)
    output = g.conv(x, channels, 8, (1, 1))
    mod = imported(g, output)
    assert tidy(convert_layout(mod, "NHWC")[0])["main"].script().count("permute_dims") == 2
    path = g.save(tmp_path / "m.onnx", output)
    image = g.rng.standard_normal((1, 3, 7, 5)).astype(np.float32)
    compiled = compile_onnx(path, resolve_target("x86"), progress=lambda message: None)
    assert compiled.report.naive() == []
    np.testing.assert_allclose(run_compiled(compiled, image)[0], run_onnx(path, {"x": image})[0], atol=1e-5)


def test_a_head_in_nhwc_needs_no_transpose() -> None:
    g = Graph([1, 3, 7, 5])
    head = g.op("Transpose", g.conv("x", 3, 12), perm=[0, 2, 3, 1])
    mod = imported(g, g.op("Reshape", head, g.constant(np.array([1, -1, 4]))))
    assert tidy(convert_layout(mod, "NHWC")[0])["main"].script().count("permute_dims") == 1  # the image's


def test_the_last_transpose_goes_ahead_of_an_enlarging_resize() -> None:
    g = Graph([1, 3, 7, 5])
    scales = g.constant(np.array([1, 1, 8, 8], np.float32))
    mod = imported(g, g.op("Resize", g.conv("x", 3, 8), "", scales, mode="linear"))
    text = tidy(hoist_transposes(tidy(convert_layout(mod, "NHWC")[0])))["main"].script()
    assert text.count("permute_dims") == 2
    assert 'layout="NCHW", method="linear"' in text
    assert text.index("(1, 8, 5, 3)") < text.index("resize2d")


@pytest.mark.parametrize(
    ("channels", "lanes", "wanted"),
    [(84, 16, 96), (126, 16, 128), (126, 4, 128), (21, 4, 24), (64, 16, 64), (8, 16, 8), (9, 16, 16), (1, 4, 1)],
)
def test_channels_are_padded_to_whole_vectors(channels: int, lanes: int, wanted: int) -> None:
    assert padded(channels, lanes) == wanted


def test_a_head_is_padded_and_sliced_but_not_what_feeds_a_convolution() -> None:
    g = Graph([1, 3, 7, 5])
    inner = g.conv("x", 3, 21)
    head = g.op("Transpose", g.conv(inner, 21, 21, (1, 1)), perm=[0, 2, 3, 1])
    mod = imported(g, g.op("Reshape", head, g.constant(np.array([1, -1, 7]))))
    text = pad_channels(tidy(convert_layout(mod, "NHWC")[0]), 16)["main"].script()
    assert text.count("R.strided_slice") == 1
    assert "(1, 5, 3, 32)" in text
    assert "(1, 5, 3, 21)" in text


def test_a_dense_head_that_is_the_output_is_padded(tmp_path: Path, run_compiled, run_onnx) -> None:  # type: ignore[no-untyped-def]
    g = Graph([5, 12])
    path = g.save(tmp_path / "m.onnx", g.op("Gemm", "x", g.weights(12, 45), g.weights(45)))
    compiled = compile_onnx(path, resolve_target("x86"))
    assert any("x48" in row.reason for row in compiled.report.rows), compiled.report.rows
    x = np.random.default_rng(0).standard_normal((5, 12)).astype(np.float32)
    (actual,), (expected,) = run_compiled(compiled, x), run_onnx(path, {"x": x})
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_the_last_product_before_probabilities_is_padded(tmp_path: Path, run_compiled, run_onnx) -> None:  # type: ignore[no-untyped-def]
    g = Graph([5, 12])
    path = g.save(tmp_path / "m.onnx", g.op("LogSoftmax", g.op("Gemm", "x", g.weights(12, 43), g.weights(43)), axis=-1))
    compiled = compile_onnx(path, resolve_target("x86"))
    assert any("x48" in row.reason for row in compiled.report.rows), compiled.report.rows
    x = np.random.default_rng(0).standard_normal((5, 12)).astype(np.float32)
    (actual,), (expected,) = run_compiled(compiled, x), run_onnx(path, {"x": x})
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_parts_of_a_split_join_what_reads_them(tmp_path: Path, run_compiled, run_onnx) -> None:  # type: ignore[no-untyped-def]
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 18]> g (float[4,48] x) => (float[4,16] y)
        { i, f, g = Split <axis = -1, num_outputs = 3> (x)
          a = Sigmoid (i) b = Tanh (f) c = Mul (a, b) y = Add (c, g) }"""
    )
    path = tmp_path / "split.onnx"
    onnx.save(model, path)
    compiled = compile_onnx(path, resolve_target("x86"), progress=lambda message: None)
    assert len(compiled.report.rows) == 1
    x = np.random.default_rng(0).standard_normal((4, 48)).astype(np.float32)
    np.testing.assert_allclose(run_compiled(compiled, x)[0], run_onnx(path, {"x": x})[0], atol=1e-6)


@pytest.mark.parametrize("shape", [(64, 1, 32), (2, 24, 1, 32), (7, 1, 19), (1, 1, 32)])
def test_batches_of_one_row_are_rows(  # type: ignore[no-untyped-def]
    shape: tuple[int, ...], tmp_path: Path, run_compiled, run_onnx
) -> None:
    """As exporters write a linear layer on [time, 1, features]."""
    g = Graph(shape)
    path = g.save(tmp_path / "m.onnx", g.op("Add", g.op("MatMul", "x", g.weights(shape[-1], 48)), g.weights(48)))
    compiled = compile_onnx(path, resolve_target("x86:skylake-avx512"), progress=lambda message: None)
    (row,) = compiled.report.rows
    assert row.schedule == "matmul"
    assert row.reason.startswith("tile 1x") == (shape[-3] == 1)
    if resolve_target("x86:skylake-avx512").runnable_here()[0]:
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        np.testing.assert_allclose(run_compiled(compiled, x)[0], run_onnx(path, {"x": x})[0], atol=1e-5)


def test_relu6_joins_its_convolution() -> None:
    g = Graph([1, 3, 7, 5])
    low, high = g.constant(np.float32(0)), g.constant(np.float32(6))
    x = g.op("Clip", g.conv("x", 3, 16), low, high)
    names = kernels(fused(g, g.conv(x, 16, 16, (1, 1))))
    assert any("conv2d" in name and "clip" in name for name in names)
    assert sum("transpose" in name for name in names) == 2


@given(st.permutations(range(4)), st.permutations(range(4)))
def test_compose_is_transposing_twice(first: list[int], second: list[int]) -> None:
    array = np.empty((2, 3, 5, 7))
    assert array.transpose(first).transpose(second).shape == array.transpose(compose(first, second)).shape


def fused(g: Graph, *outputs: str) -> tvm.IRModule:
    return fused_module(imported(g, *outputs))


def fused_module(mod: tvm.IRModule) -> tvm.IRModule:
    target = resolve_target("x86")
    with target.to_tvm():
        return tvm.transform.Sequential(fuse_passes())(layout(mod, target)[0])


def kernels(mod: tvm.IRModule) -> list[str]:
    return [str(var.name_hint) for var, func in mod.functions.items() if not isinstance(func, relax.Function)]


def test_schedule_kernels_reports_every_kernel_and_packs_weights() -> None:
    g = Graph([1, 16, 7, 5])
    mod = fused(g, g.op("Relu", g.conv("x", 16, 256)))
    scheduled, rows, packings = schedule_kernels(mod, resolve_target("x86"))
    by_kind = {row.op_kind: row for row in rows}
    conv = by_kind["conv2d"]
    assert conv.schedule == "conv2d_direct"
    assert conv.flops >= 2 * 5 * 3 * 256 * 16 * 9
    ((position, packing),) = packings[conv.kernel].items()
    assert (position, packing.axis) == (1, 3)
    text = scheduled.script()
    assert "T.parallel" in text
    assert "T.vectorized" in text
    assert {row.kernel for row in rows} == {
        str(v.name_hint) for v, f in mod.functions.items() if not isinstance(f, relax.Function)
    }


def test_a_forbidden_kernel_stays_naive_and_says_why() -> None:
    g = Graph([1, 16, 7, 5])
    mod = fused(g, g.op("Relu", "x"))
    (name,) = [str(v.name_hint) for v, f in mod.functions.items() if not isinstance(f, relax.Function)]
    _, (row,), packings = schedule_kernels(mod, resolve_target("x86"), {name: "told so"})
    assert (row.schedule, row.reason, packings) == ("naive", "told so", {})


def test_dump_writes_every_phase(tmp_path: Path) -> None:
    path = residual_network(tmp_path / "m.onnx")
    model = onnx.load(path)
    mod = import_model(model, signature_of(model), 1)
    lower(mod, resolve_target("x86"), Dump(tmp_path / "ir"))
    names = sorted(p.name for p in (tmp_path / "ir").iterdir())
    assert names == ["0_layout.py", "1_fuse.py", "2_schedule.py", "3_lower.py"]
    texts = [(tmp_path / "ir" / name).read_text() for name in names]
    assert "R.nn.conv2d" in texts[0]
    assert "R.nn.conv2d" not in texts[1]


@pytest.mark.parametrize(
    ("num", "lengths"), [(34, [16, 16, 2]), (7, [4, 2, 1]), (40, [16, 16, 8]), (1, [1]), (64, [16] * 4)]
)
def test_vectors_are_registers_and_then_powers_of_two(num: int, lengths: list[int]) -> None:
    assert vector_lengths(num, 16) == lengths


@pytest.mark.parametrize(("channels", "groups"), [(34, 1), (68, 2), (58, 1), (7, 1)])
def test_odd_numbers_of_channels_are_cut_into_whole_vectors(
    channels: int,
    groups: int,
    tmp_path: Path,
    run_compiled,  # type: ignore[no-untyped-def]
    run_onnx,  # type: ignore[no-untyped-def]
) -> None:
    g = Graph([1, channels, 6, 5])
    path = g.save(tmp_path / "m.onnx", g.op("Relu", g.conv("x", channels, channels, (1, 1), group=groups)))
    target = resolve_target("x86:skylake-avx512")
    compiled = compile_onnx(path, target, dump_dir=tmp_path / "ir", progress=lambda message: None)
    scheduled = next((tmp_path / "ir").rglob("*schedule.py")).read_text()
    lengths = {int(length) for length in re.findall(r"T\.vectorized\(T\.int64\((\d+)", scheduled)}
    assert lengths
    assert all(length & (length - 1) == 0 for length in lengths), lengths
    if target.runnable_here()[0]:
        x = g.rng.standard_normal((1, channels, 6, 5)).astype(np.float32)
        np.testing.assert_allclose(run_compiled(compiled, x)[0], run_onnx(path, {"x": x})[0], atol=1e-5)
