"""Winograd's minimal filtering for 3x3 convolution of stride 1: F(2x2, 3x3) and F(4x4, 3x3) over NHWC.

A tile of m x m outputs costs (m + 2)^2 multiplications per pair of channels instead of 9 m^2: 2.25 times fewer for
m = 2, four times for m = 4 (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308).
The kernel is five steps that its schedule interleaves: pad, transform the input (rows, then columns), one matrix
product per position of the transformed tile, transform back. A dilated convolution is `dilation`^2 interleaved ones.

Shapes: N batch, H W positions, C input and K output channels, P tiles, A = m + 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.tirx import PrimFunc

from lab.compile.kernels import emit

NAME = "winograd"
PAD, ROWS, INPUT, PRODUCT = "winograd_pad", "winograd_rows", "winograd_input", "winograd_product"
OUTPUT_ROWS, OUTPUT, RESULT = "winograd_output_rows", "winograd_output", "winograd_result"
KERNEL_SIZE = 3

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Transform:
    """The matrices of F(m x m, 3 x 3): A = G g, input B' d B, output A' y A (wincnn's points 0, 1, -1, 2, -2)."""

    kernel: Matrix
    input: Matrix
    output: Matrix


TRANSFORMS: dict[int, Transform] = {
    2: Transform(
        kernel=((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
        input=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, -1, 0, 1)),
        output=((1, 1, 1, 0), (0, 1, -1, 1)),
    ),
    4: Transform(
        kernel=(
            (1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6), (1 / 24, 1 / 12, 1 / 6),
            (1 / 24, -1 / 12, 1 / 6), (0, 0, 1),
        ),
        input=(
            (4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0), (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0),
            (0, 4, 0, -5, 0, 1),
        ),
        output=((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Convolution:
    """A 3x3 convolution of stride 1 over NHWC; `height` and `width` are the result's, `top` and `left` the padding."""

    batch: int
    height: int
    width: int
    num_inputs: int
    num_outputs: int
    input_height: int
    input_width: int
    top: int
    left: int
    dilation: int


@dataclass(frozen=True)
class Plan:
    """How a convolution is cut: tiles of m x m outputs in a grid of `grid_rows` x `grid_columns`, for each of the
    dilation^2 interleaved convolutions of an image.

    One task transforms `task_rows` rows of tiles, then takes `block_columns` output channels at a time; the matrix
    product holds `tile_rows` tiles x `tile_columns` channels in registers. With `shared_input` all tiles are
    transformed ahead of the tasks, and a task is one block of channels for its rows of tiles, so that each core reads
    weights of its own only.
    """

    m: int
    grid_rows: int
    grid_columns: int
    task_rows: int
    tile_rows: int
    tile_columns: int
    block_columns: int
    shared_input: bool = False

    @property
    def a(self) -> int:
        return self.m + KERNEL_SIZE - 1


def transform_weights(weights: np.ndarray, m: int) -> np.ndarray:
    """float32 [3, 3, C, K] -> [A, A, C, K], computed in float64."""
    matrix = np.asarray(TRANSFORMS[m].kernel)
    # float64 keeps the transform's own rounding out of the error, which the products alone then make.
    transformed = np.einsum("ei,ijck,fj->efck", matrix, weights.astype(np.float64), matrix, optimize=True)
    return np.asarray(transformed, np.float32)


def winograd(conv: Convolution, plan: Plan) -> PrimFunc:
    """The kernel: x [N, H, W, C] and transformed weights [A, A, C, K] in, [N, Y, X, K] out."""
    n, h, w, c, k = emit.sizes(conv.batch, conv.input_height, conv.input_width, conv.num_inputs, conv.num_outputs)
    height, width, rows, columns, a, m = emit.sizes(
        conv.height, conv.width, plan.grid_rows, plan.grid_columns, plan.a, plan.m
    )
    transform, d, zero = TRANSFORMS[plan.m], conv.dilation, tirx.const(0.0, "float32")
    num_tiles = emit.sizes(conv.batch * plan.grid_rows * plan.grid_columns * d * d)[0]
    padded = emit.sizes(*((count * plan.m + KERNEL_SIZE - 1) * d for count in (plan.grid_rows, plan.grid_columns)))
    x = te.placeholder((n, h, w, c), name="x")
    weights = te.placeholder((a, a, c, k), name="weights")

    def inside(i: Any, y: Any, v: Any, j: Any) -> Any:
        row, column = y - conv.top, v - conv.left
        within = tirx.all(row >= 0, row < h, column >= 0, column < w)
        return tirx.if_then_else(within, x[i, row, column, j], zero)

    def element(p: Any, r: Any, s: int, j: Any) -> Any:
        """Position (r, s) of tile p, which is numbered by image, row, phase of rows, phase of columns, column."""
        row, column = p // (columns * d * d), p % columns
        y, v = row % rows * (plan.m * d) + p // (columns * d) % d, column * (plan.m * d) + p // columns % d
        return pad[row // rows, y + r * d, v + s * d, j]

    def result(i: Any, y: Any, v: Any, j: Any) -> Any:
        row = (i * rows + y // (plan.m * d)) * d + y % d
        p = (row * d + v % d) * columns + v // (plan.m * d)
        return output[p, y // d % plan.m, v // d % plan.m, j]

    size = plan.a
    pad = te.compute((n, *padded, c), inside, name=PAD)
    along = te.compute(
        (num_tiles, a, a, c),
        lambda p, r, s, j: _choose(s, transform.input, lambda i: element(p, r, i, j), size),
        name=ROWS,
    )
    into = te.compute(
        (a, a, num_tiles, c),
        lambda r, s, p, j: _choose(r, transform.input, lambda i: along[p, i, s, j], size),
        name=INPUT,
    )
    channel = te.reduce_axis((0, c), name="channel")
    product = te.compute(
        (a, a, num_tiles, k),
        lambda r, s, p, j: te.sum(into[r, s, p, channel] * weights[r, s, channel, j], axis=channel),
        name=PRODUCT,
        attrs={f"lab.{key}": int(value) for key, value in vars(plan).items()} | {"lab.dilation": d},
    )
    back = te.compute(
        (num_tiles, m, a, k),
        lambda p, r, s, j: _choose(r, transform.output, lambda i: product[i, s, p, j], size),
        name=OUTPUT_ROWS,
    )
    output = te.compute(
        (num_tiles, m, m, k),
        lambda p, r, s, j: _choose(s, transform.output, lambda i: back[p, r, i, j], size),
        name=OUTPUT,
    )
    out = te.compute((n, height, width, k), result, name=RESULT)
    return emit.named(te.create_prim_func([x, weights, out]), NAME, emit.ELEMENTWISE_BEHIND)


def _choose(index: Any, matrix: Matrix, value: Callable[[int], Any], size: int) -> Any:
    """Row `index` of the matrix times the values: once the loop over `index` is unrolled, one row's terms are left."""
    chosen = _combine(matrix[-1], value, size)
    for i in range(len(matrix) - 2, -1, -1):
        chosen = tirx.Select(index == i, _combine(matrix[i], value, size), chosen)
    return chosen


def _combine(row: Sequence[float], value: Callable[[int], Any], size: int) -> Any:
    """The sum of the row's terms; factors of zero and one cost nothing."""
    total = None
    for i in range(size):
        if row[i] == 0:
            continue
        term = value(i) if abs(row[i]) == 1 else value(i) * tirx.const(float(row[i]), "float32")
        signed = -term if row[i] == -1 else term
        total = signed if total is None else total + signed
    return total
