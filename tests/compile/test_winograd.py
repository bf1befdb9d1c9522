"""Winograd's convolution computes what the plain one does, at every tile size, dilation and cut, within its bound."""

from __future__ import annotations

from math import ceil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from lab.compile.build import compile_onnx
from lab.compile.kernels.winograd import TRANSFORMS, Convolution, Plan, transform_weights, winograd
from lab.compile.kernels.winograd_plan import cycles, direct_cycles, plan_for
from lab.compile.passes.pack_weights import pack
from lab.compile.schedules import CPU_RULES
from lab.compile.schedules.kernel import DoesNotFit, Kernel
from lab.compile.targets import resolve_target
from lab.compile.targets.machine import Machine
from lab.compile.targets.x86 import AVX2, AVX512, SSE

BOUND = {2: 5e-6, 4: 5e-5}
"""Largest error relative to the largest output: F(4x4) multiplies by up to 8 and adds what nearly cancels."""


def same(height: int, width: int, inputs: int, outputs: int, dilation: int = 1, batch: int = 1) -> Convolution:
    return Convolution(batch, height, width, inputs, outputs, height, width, dilation, dilation, dilation)


def run(conv: Convolution, plan: Plan, machine: Machine) -> tuple[np.ndarray, np.ndarray]:
    """The scheduled kernel's result and torch's, both [N, Y, X, K]."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((conv.batch, conv.input_height, conv.input_width, conv.num_inputs)).astype(np.float32)
    weights = rng.standard_normal((3, 3, conv.num_inputs, conv.num_outputs)).astype(np.float32)
    scheduled = CPU_RULES["conv2d_winograd"](Kernel("main", winograd(conv, plan), frozenset({1})), machine)
    constant = transform_weights(weights, plan.m)
    if 1 in scheduled.packings:
        constant = pack(constant, scheduled.packings[1])
    module = tvm.IRModule({"main": scheduled.func.with_attr("global_symbol", "main")})
    built = tvm.compile(module, target=tvm.target.Target("llvm"))
    out = np.full((conv.batch, conv.height, conv.width, conv.num_outputs), np.nan, np.float32)
    tensors = [tvm.runtime.tensor(array) for array in (x, constant, out)]
    built["main"](*tensors)
    after = [
        (size - 1) + 2 * conv.dilation - before - (source - 1)
        for size, source, before in (
            (conv.height, conv.input_height, conv.top),
            (conv.width, conv.input_width, conv.left),
        )
    ]
    planes = torch.from_numpy(x).permute(0, 3, 1, 2).double()
    padded = torch.nn.functional.pad(planes, (conv.left, after[1], conv.top, after[0]))
    kernel = torch.from_numpy(weights).permute(3, 2, 0, 1).double()
    expected = torch.nn.functional.conv2d(padded, kernel, dilation=conv.dilation).permute(0, 2, 3, 1).numpy()
    return tensors[-1].numpy(), expected


def check(conv: Convolution, plan: Plan, machine: Machine) -> None:
    actual, expected = run(conv, plan, machine)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= BOUND[plan.m] * np.abs(expected).max()


@pytest.mark.parametrize("m", TRANSFORMS)
def test_the_transforms_are_a_correlation_in_one_dimension(m: int) -> None:
    transform = TRANSFORMS[m]
    rng = np.random.default_rng(1)
    d, g = rng.standard_normal(m + 2), rng.standard_normal(3)
    products = (np.asarray(transform.kernel) @ g) * (np.asarray(transform.input) @ d)
    np.testing.assert_allclose(np.asarray(transform.output) @ products, np.correlate(d, g, "valid"), atol=1e-12)


@pytest.mark.parametrize("machine", [AVX512, AVX2, SSE], ids=["avx512", "avx2", "sse"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("m", TRANSFORMS)
def test_same_output_for_odd_sizes_and_a_batch(m: int, shared: bool, machine: Machine) -> None:
    conv = same(13, 11, 32, 48, batch=2)
    rows, columns = -(-13 // m), -(-11 // m)
    rows += rows % 2
    check(conv, Plan(m, rows, columns, 2, 2, 16, 48, shared), machine)


@pytest.mark.parametrize("dilation", [2, 3])
def test_a_dilated_convolution_is_interleaved_ones(dilation: int) -> None:
    conv = same(14, 9, 16, 16, dilation)
    tiles = [ceil(ceil(size / dilation) / 4) for size in (14, 9)]
    check(conv, Plan(4, tiles[0], tiles[1], 1, 1, 16, 16), AVX512)


def test_a_grid_may_have_more_rows_and_columns_than_the_image_fills() -> None:
    check(same(20, 20, 16, 64), Plan(4, 6, 6, 2, 4, 64, 64), AVX512)
    check(same(20, 20, 16, 64), Plan(4, 6, 6, 3, 9, 32, 32, shared_input=True), AVX512)
    check(same(18, 18, 16, 16, dilation=2), Plan(4, 4, 4, 2, 8, 16, 16), AVX512)


def test_uneven_padding() -> None:
    check(Convolution(1, 12, 8, 16, 16, 11, 10, 2, 0, 1), Plan(4, 3, 2, 1, 2, 16, 16), AVX512)
    check(Convolution(1, 6, 8, 16, 16, 8, 10, 0, 0, 1), Plan(4, 2, 2, 1, 2, 16, 16), AVX512)


@settings(max_examples=12, deadline=None)
@given(
    st.integers(4, 40), st.integers(4, 40), st.sampled_from([16, 32, 96]), st.sampled_from([16, 64]), st.integers(1, 3)
)
def test_the_chosen_plan_computes_the_convolution(height: int, width: int, c: int, k: int, dilation: int) -> None:
    conv = same(height, width, c, k, dilation)
    plan = plan_for(conv, AVX512)
    if plan is not None:
        assert cycles(conv, plan, AVX512) < direct_cycles(conv, AVX512)
        assert plan.grid_rows * plan.m * dilation >= height
        assert plan.grid_columns * plan.m * dilation >= width
        check(conv, plan, AVX512)


def test_large_images_pay_and_few_tiles_of_many_channels_do_not() -> None:
    large = plan_for(same(56, 56, 64, 64), AVX512)
    assert large is not None
    assert large.m == 4
    assert plan_for(same(7, 7, 512, 512), AVX512) is None
    assert plan_for(same(56, 56, 3, 64), AVX512) is None, "three channels fill no vector"


def test_another_kernel_is_refused() -> None:
    from tests.compile.test_schedules import convolution

    with pytest.raises(DoesNotFit):
        CPU_RULES["conv2d_winograd"](Kernel("conv", convolution(1, 14, 14, 32, 64, 3, 1, 1)), AVX512)


def test_weights_that_do_not_stay_in_cache_are_asked_for_ahead() -> None:
    conv = same(28, 28, 256, 256)
    plan = Plan(4, 7, 7, 7, 7, 64, 64)
    kernel = Kernel("main", winograd(conv, plan), frozenset({1}))
    assert "T.prefetch(" in CPU_RULES["conv2d_winograd"](kernel, AVX512).func.script()
    check(same(28, 28, 256, 128), Plan(4, 7, 7, 7, 7, 64, 64), AVX512)
    small = Kernel("main", winograd(same(28, 28, 32, 32), Plan(4, 7, 7, 7, 7, 32, 32)), frozenset({1}))
    assert "T.prefetch(" not in CPU_RULES["conv2d_winograd"](small, AVX512).func.script()


def residual_block(path: Path, *, size: int, channels: int) -> Path:
    """relu(x + conv(relu(conv(x)))), as ONNX."""
    rng = np.random.default_rng(2)
    weights = [
        helper.make_tensor(
            f"w{i}", TensorProto.FLOAT, [channels, channels, 3, 3],
            (rng.standard_normal(channels * channels * 9) / np.sqrt(9 * channels)).astype(np.float32),
        )
        for i in range(2)
    ]  # fmt: skip
    bias = helper.make_tensor("b", TensorProto.FLOAT, [channels], rng.standard_normal(channels).astype(np.float32))
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["c"]),
        helper.make_node("Conv", ["c", "w1", "b"], ["d"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["d", "x"], ["e"]),
        helper.make_node("Relu", ["e"], ["y"]),
    ]
    shape = [1, channels, size, size]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    graph = helper.make_graph(nodes, "block", infos[:1], infos[1:], [*weights, bias])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_bias_shortcut_and_relu_join_the_kernel(tmp_path: Path, run_compiled, run_onnx) -> None:  # type: ignore[no-untyped-def]
    path = residual_block(tmp_path / "block.onnx", size=30, channels=32)
    compiled = compile_onnx(path, resolve_target("x86"))
    rows = {row.kernel: row.schedule for row in compiled.report.rows}
    assert list(rows.values()).count("conv2d_winograd") == 2
    assert not any(kernel.startswith(("fused_add", "add", "relu")) for kernel in rows), rows
    feed = {"x": np.random.default_rng(3).standard_normal((1, 32, 30, 30)).astype(np.float32)}
    (actual,), (expected,) = run_compiled(compiled, feed["x"]), run_onnx(path, feed)
    assert np.abs(actual - expected).max() <= BOUND[4] * np.abs(expected).max()
