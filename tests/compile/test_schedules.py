"""Each schedule computes what the naive loops compute, on odd sizes too, and refuses what it does not fit."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import te, topi
from tvm.tirx import PrimFunc

from lab.compile.kernels import suppression, top_k
from lab.compile.kernels.bilinear import bilinear
from lab.compile.schedules import CPU_RULES, GPU_RULES
from lab.compile.schedules.kernel import DoesNotFit, Kernel, largest_divisor
from lab.compile.schedules.tile import Tile, choose_tile
from lab.compile.schedules.tiling import rows_per_task, shared_by_rows
from lab.compile.schedules.window import Window, unrolled_tile
from lab.compile.targets.arm import CORES
from lab.compile.targets.machine import Machine
from lab.compile.targets.x86 import AVX2, AVX512, SSE

NEON = CORES["cortex-a72"][1]
MACHINES = pytest.mark.parametrize("machine", [AVX512, AVX2, SSE, NEON], ids=["avx512", "avx2", "sse", "neon"])


def placeholder(*shape: int, name: str) -> te.Tensor:
    return te.placeholder(shape, name=name)


def convolution(n: int, h: int, w: int, c: int, k: int, r: int, stride: int, pad: int, dilation: int = 1) -> PrimFunc:
    x, weight, bias = placeholder(n, h, w, c, name="x"), placeholder(r, r, c, k, name="w"), placeholder(k, name="b")
    return te.create_prim_func(
        [x, weight, bias, topi.nn.relu(topi.nn.conv2d_nhwc(x, weight, stride, pad, dilation) + bias)]
    )


def depthwise(
    h: int, w: int, c: int, multiplier: int, groups: int, stride: int = 1, r: int = 3, border: float = 0.0
) -> PrimFunc:
    x, weight = placeholder(1, h, w, c, name="x"), placeholder(r, r, c // groups, c * multiplier, name="w")
    pad = r // 2
    padded = topi.nn.pad(x, [0, pad, pad, 0], pad_value=border) if border else x
    result = topi.nn.group_conv2d_nhwc(padded, weight, stride, 0 if border else pad, 1, groups)
    return te.create_prim_func([x, weight, topi.nn.relu(result)])


def product(m: int, n: int, c: int, batch: int = 0) -> PrimFunc:
    lead = (batch,) if batch else ()
    a, b, bias = placeholder(*lead, m, c, name="a"), placeholder(*lead, c, n, name="b"), placeholder(n, name="bias")
    r = te.reduce_axis((0, c), name="r")

    def cell(*index: tvm.tirx.Var) -> tvm.tirx.PrimExpr:
        return te.sum(a[(*index[:-1], r)] * b[(*index[:-2], r, index[-1])], axis=r)

    return te.create_prim_func([a, b, bias, topi.nn.relu(te.compute((*lead, m, n), cell, name="matmul") + bias)])


def pooling(h: int, w: int, c: int, kind: str) -> PrimFunc:
    x = placeholder(2, h, w, c, name="x")
    return te.create_prim_func([x, topi.nn.pool2d(x, [3, 3], [2, 2], [1, 1], [1, 1, 1, 1], kind, layout="NHWC")])


def mean(h: int, w: int, c: int) -> PrimFunc:
    x = placeholder(2, h, w, c, name="x")
    return te.create_prim_func([x, topi.sum(x, axis=[1, 2]) * 0.5])


def pointwise(*shape: int) -> PrimFunc:
    x, y = placeholder(*shape, name="x"), placeholder(*shape, name="y")
    return te.create_prim_func([x, y, topi.nn.relu(topi.tanh(x) + y)])


def rearranged(*shape: int) -> PrimFunc:
    x, y = placeholder(*shape, name="x"), placeholder(shape[-1], name="y")
    return te.create_prim_func([x, y, topi.transpose(topi.multiply(x, y))])


def layer_norm(rows: int, columns: int) -> PrimFunc:
    x, scale, shift = placeholder(2, rows, columns, name="x"), *(placeholder(columns, name=n) for n in "sb")
    return te.create_prim_func([x, scale, shift, topi.nn.layer_norm(x, scale, shift, [2], 1e-5)])


def linear(batch: int, rows: int, n: int, c: int) -> PrimFunc:
    """All batches have the same right-hand side."""
    x, weight, bias = placeholder(batch, rows, c, name="x"), placeholder(c, n, name="w"), placeholder(n, name="b")
    k = te.reduce_axis((0, c), name="k")
    result = te.compute((batch, rows, n), lambda b, i, j: te.sum(x[b, i, k] * weight[k, j], axis=k), name="matmul")
    return te.create_prim_func([x, weight, bias, topi.nn.relu(result + bias)])


def softmax(rows: int, columns: int) -> PrimFunc:
    x = placeholder(rows, columns, name="x")
    return te.create_prim_func([x, topi.nn.softmax(x)])


CASES = {
    "conv 3x3": ("conv2d_direct", convolution(1, 14, 14, 32, 64, 3, 1, 1)),
    "conv stride 2": ("conv2d_direct", convolution(2, 13, 11, 16, 48, 3, 2, 1)),
    "conv 1x1": ("conv2d_direct", convolution(1, 7, 7, 24, 96, 1, 1, 0)),
    "conv 1x1 stride 2": ("conv2d_direct", convolution(1, 8, 8, 16, 32, 1, 2, 0)),
    "conv stem": ("conv2d_direct", convolution(1, 17, 19, 3, 32, 7, 2, 3)),
    "conv one channel": ("conv2d_direct", convolution(3, 12, 12, 1, 16, 3, 1, 1)),
    "conv dilated": ("conv2d_direct", convolution(1, 11, 13, 16, 16, 3, 1, 2, 2)),
    "conv dilated beyond the image": ("conv2d_direct", convolution(1, 8, 8, 8, 16, 3, 1, 12, 12)),
    "conv dilated stride 2": ("conv2d_direct", convolution(1, 13, 11, 8, 48, 3, 2, 4, 4)),
    "conv dilated no padding": ("conv2d_direct", convolution(1, 17, 17, 4, 16, 3, 1, 0, 2)),
    "conv many channels": ("conv2d_direct", convolution(1, 6, 5, 1024, 64, 3, 1, 1)),
    "conv many channels dilated": ("conv2d_direct", convolution(1, 6, 5, 1024, 64, 3, 1, 2, 2)),
    "conv few positions of many channels": ("conv2d_direct", convolution(1, 7, 7, 512, 64, 1, 1, 0)),
    "conv primes": ("conv2d_direct", convolution(1, 11, 23, 7, 37, 3, 1, 1)),
    "conv one output channel": ("conv2d_direct", convolution(1, 9, 7, 16, 1, 3, 1, 1)),
    "conv no padding": ("conv2d_direct", convolution(1, 9, 7, 16, 16, 3, 1, 0)),
    "resize": ("resize", bilinear([2, 5, 7, 16], 10, 21, "NHWC")),
    "resize planes": ("resize", bilinear([1, 3, 5, 7], 40, 56, "NCHW")),
    "resize down": ("resize", bilinear([1, 9, 8, 5], 4, 3, "NHWC")),
    "top k": ("rows", top_k.on_cpu(3, 17, 5, largest=True, dtype="float32", index_dtype="int64")),
    "suppression": ("rows", suppression.on_cpu(3, 17, 0.4, 8)),
    "dense one row": ("matmul", product(1, 1000, 64)),
    "dense rows": ("matmul", product(12, 40, 20)),
    "dense primes": ("matmul", product(5, 17, 13)),
    "batched product": ("matmul", product(6, 32, 8, batch=3)),
    "dense rows filled up": ("matmul", product(197, 64, 32)),
    "batched product filled up both ways": ("matmul", product(37, 37, 16, batch=3)),
    "dense in batches": ("matmul", linear(3, 14, 64, 40)),
    "dense in batches of one": ("matmul", linear(37, 1, 96, 24)),
    "dense in batches, many steps": ("matmul", linear(2, 7, 48, 2048)),
    "dense one column": ("matmul", product(3, 1, 11)),
    "depthwise": ("window", depthwise(9, 14, 32, 1, 32)),
    "depthwise stride 2": ("window", depthwise(9, 27, 24, 1, 24, stride=2)),
    "depthwise multiplier": ("window", depthwise(9, 7, 16, 2, 16)),
    "depthwise 5x5": ("window", depthwise(9, 7, 16, 1, 16, r=5)),
    "depthwise, border of ones": ("window", depthwise(9, 14, 32, 1, 32, border=1.0)),
    "grouped": ("window", depthwise(9, 7, 32, 1, 4)),
    "max pool": ("window", pooling(13, 11, 32, "max")),
    "average pool": ("window", pooling(12, 9, 48, "avg")),
    "global sum": ("window", mean(7, 5, 64)),
    "pointwise": ("elementwise", pointwise(3, 5, 32)),
    "pointwise primes": ("elementwise", pointwise(3, 5, 7)),
    "transpose": ("elementwise", rearranged(5, 7, 32)),
    "softmax": ("generic", softmax(5, 37)),
    "softmax one row": ("generic", softmax(1, 1000)),
    "softmax in vectors": ("generic", softmax(6, 96)),
    "layer norm": ("generic", layer_norm(5, 64)),
    "layer norm of an odd row": ("generic", layer_norm(3, 37)),
    "few channels pool": ("generic", pooling(13, 11, 3, "max")),
    "generic convolution": ("generic", convolution(1, 6, 7, 5, 16, 3, 1, 1)),
    "generic product": ("generic", product(5, 16, 7)),
}


def shapes(func: PrimFunc) -> list[tuple[int, ...]]:
    return [tuple(int(dim) for dim in param.shape) for param in func.params]


def arrays(case: str) -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    params = CASES[case][1].params
    return [_random(rng, shape, str(p.dtype)) for shape, p in zip(shapes(CASES[case][1]), params, strict=True)]


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Indices stay below every extent of these cases."""
    if dtype == "float32":
        return rng.standard_normal(shape).astype(np.float32)
    return rng.integers(0, 2, shape).astype(dtype) if dtype == "bool" else rng.integers(0, 5, shape).astype(dtype)


@cache
def expected(case: str) -> np.ndarray:
    return compute(CASES[case][1], arrays(case))


def compute(func: PrimFunc, values: list[np.ndarray]) -> np.ndarray:
    built = tvm.compile(
        tvm.IRModule({"main": func.with_attr("global_symbol", "main")}), target=tvm.target.Target("llvm")
    )
    tensors = [tvm.runtime.tensor(value) for value in values]
    built["main"](*tensors)
    return np.asarray(tensors[-1].numpy())


@MACHINES
@pytest.mark.parametrize("case", CASES)
def test_same_output_as_naive_loops(case: str, machine: Machine) -> None:
    rule, func = CASES[case]
    scheduled = CPU_RULES[rule](Kernel(case, func), machine)
    *inputs, output = arrays(case)
    actual = compute(scheduled.func, [*inputs, np.full_like(output, np.nan) if output.dtype.kind == "f" else output])
    largest = float(np.abs(expected(case)).max())
    np.testing.assert_allclose(actual, expected(case), rtol=1e-4, atol=2e-5 + 2e-6 * largest)


@pytest.mark.parametrize("case", ["conv 3x3", "dense one row", "max pool", "pointwise", "generic product"])
def test_inner_loops_are_vectors(case: str) -> None:
    rule, func = CASES[case]
    text = CPU_RULES[rule](Kernel(case, func), AVX512).func.script()
    assert "T.vectorized(" in text


@pytest.mark.parametrize(
    ("rule", "case"),
    [
        ("conv2d_direct", "dense rows"),
        ("matmul", "max pool"),
        ("window", "softmax"),
        ("window", "few channels pool"),
        ("elementwise", "global sum"),
    ],
)
def test_rules_refuse_what_they_do_not_fit(rule: str, case: str) -> None:
    with pytest.raises(DoesNotFit):
        CPU_RULES[rule](Kernel(case, CASES[case][1]), AVX512)


def test_every_rule_has_a_case_and_every_file_a_rule(repo: Path) -> None:
    # test_recurrent and test_integer compare whole graphs; test_winograd has cases of its own
    elsewhere = {"recurrent", "conv2d_winograd", "conv2d_integer"}
    assert {rule for rule, _ in CASES.values()} | elsewhere == set(CPU_RULES)
    helpers = {"__init__", "kernel", "tile", "tiling", "border", "prefetch", "gemm_plan", "dot_product"}
    files = {p.stem for p in (repo / "lab" / "compile" / "schedules").glob("*.py")} - helpers
    tabled = {
        entry.split(":")[0].rsplit(".", 1)[1] for table in (CPU_RULES, GPU_RULES) for entry in table.entries.values()
    }
    assert tabled == files
    assert all(callable(table[name]) for table in (CPU_RULES, GPU_RULES) for name in table)


def test_tiles_divide_and_fit_the_registers() -> None:
    for rows in (1, 7, 14, 23, 28, 56, 112):
        for columns in (1, 10, 16, 37, 64, 512, 1000):
            tile = choose_tile(rows, columns, AVX512)
            assert rows % tile.num_rows == columns % tile.num_columns == 0
            assert AVX512.fits_registers(tile.num_rows, -(-tile.num_columns // 16))


def test_tile_of_resnet_layers_uses_the_registers() -> None:
    tile = choose_tile(56, 64, AVX512)
    assert tile.num_rows * tile.num_columns // 16 == 28
    assert choose_tile(28, 16, AVX512).num_columns == 16


def test_what_works_on_the_same_rows_is_one_loop_over_them() -> None:
    for func in (softmax(640, 96), layer_norm(320, 96)):
        scheduled = CPU_RULES["generic"](Kernel("rows", func), AVX512)
        assert scheduled.note == "row by row"
        assert scheduled.func.script().count("T.parallel") == 1


def test_what_reads_other_rows_is_no_loop_over_rows() -> None:
    """One row of the result needs all rows of the softmax."""
    x = placeholder(32, 32, name="x")
    func = te.create_prim_func([x, topi.transpose(topi.nn.softmax(x))])
    scheduled = CPU_RULES["generic"](Kernel("transposed", func), AVX512)
    assert scheduled.note == ""
    values = [np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32), np.zeros((32, 32), np.float32)]
    np.testing.assert_allclose(compute(scheduled.func, values), compute(func, values), rtol=1e-5)


def test_rows_of_a_prime_number_are_filled_up() -> None:
    assert CPU_RULES["matmul"](Kernel("m", product(193, 48, 64)), AVX512).note.endswith("filled up to whole tiles")
    assert "filled" not in CPU_RULES["matmul"](Kernel("m", product(196, 48, 64)), AVX512).note


def test_one_row_of_an_odd_number_of_vectors_hides_the_latency() -> None:
    assert choose_tile(1, 88, NEON) == Tile(1, 88 // 2)
    assert choose_tile(1, 64, NEON) == Tile(1, 32)


@pytest.mark.parametrize(("stride", "inputs"), [(1, 10), (2, 17)])
def test_tile_of_an_unrolled_window_leaves_registers_for_its_inputs(stride: int, inputs: int) -> None:
    window = Window(stride, frozenset({0, 1, 2}), num_rows=3)
    assert (window.size, window.columns_read(8)) == (9, inputs)
    tile = unrolled_tile(8, 96, window, NEON)
    vectors = tile.num_columns // NEON.num_lanes
    assert tile == Tile(8, 4)
    assert (tile.num_rows + inputs + 1) * vectors <= NEON.num_registers


def test_window_is_read_off_the_kernel() -> None:
    """56 columns of 24 channels in tiles of 8 outputs and one vector, where results alone would allow three."""
    kernel = Kernel("depthwise", depthwise(9, 56, 24, 1, 24))
    assert "T.grid(7, 6)" in CPU_RULES["window"](kernel, NEON).func.script()


def test_depthwise_convolution_reads_its_input_where_it_is() -> None:
    """Without a padded copy of it; on ARM the taps of a window share registers, which conditions would end."""
    kernel = Kernel("depthwise", CASES["depthwise"][1])
    skipped, copied = (CPU_RULES["window"](kernel, machine) for machine in (AVX512, NEON))
    assert skipped.note == "border skipped"
    assert skipped.func.script().count("alloc_buffer") < copied.func.script().count("alloc_buffer")
    assert copied.note == ""


def test_cores_share_rows_where_weights_are_few() -> None:
    sizes = [1, 28, 28, 512, 1, 1, 128]
    assert shared_by_rows(sizes, 4 * 128 * 512, AVX512)
    assert not shared_by_rows([1, 7, 7, 960, 1, 1, 160], 4 * 160 * 960, AVX512), "weights outweigh the results"
    assert not shared_by_rows([1, 64, 64, 512, 3, 3, 512], 4 * 9 * 512 * 512, AVX512), "more than the cache holds"


def test_every_core_gets_tasks() -> None:
    machine = Machine(num_lanes=16, num_registers=32, num_cores=4)
    assert rows_per_task(56, 1, 56, machine) == 7
    assert rows_per_task(56, 100, 14, machine) == 14
    assert rows_per_task(7, 1, 7, machine) == 1


def test_largest_divisor() -> None:
    assert [largest_divisor(12, limit) for limit in (0, 1, 5, 12, 99)] == [1, 1, 4, 12, 12]
