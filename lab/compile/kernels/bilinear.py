"""Bilinear resizing in two steps, rows then columns, with source positions and weights from tables.

Shapes: H W of the source, Y X of the result, C channels, N batch, P planes (batch times channels).
"""

# mypy: ignore-errors
# TVMScript is a language of its own in Python's syntax; its annotations are no types.

from __future__ import annotations

from tvm.script import tirx as T
from tvm.tirx import IntImm, PrimFunc

from lab.compile.kernels import emit

NAME = "resize"
ROWS, COLUMNS = "resize_rows", "resize_columns"


def bilinear(shape: list[int], new_height: int, new_width: int, layout: str) -> PrimFunc:
    """The kernel: `x` and the taps of rows and columns in, the resized tensor out.

    What each block reads is declared as whole rows and columns, since no analysis can bound an index from a table.
    """
    if layout == "NHWC":
        func = _channels_last(*emit.sizes(*shape, new_height, new_width))
    else:
        n, c, height, width = shape
        func = _channels_first(*emit.sizes(n * c, height, width, new_height, new_width))
    return emit.named(func, NAME, emit.ELEMENTWISE_BEHIND)


def _channels_last(N: IntImm, H: IntImm, W: IntImm, C: IntImm, Y: IntImm, X: IntImm) -> PrimFunc:
    @T.prim_func(s_tir=True, private=True)
    def resize(
        x: T.Buffer((N, H, W, C), "float32"),
        y_at: T.Buffer((2, Y), "int32"),
        y_weight: T.Buffer((Y,), "float32"),
        x_at: T.Buffer((2, X), "int32"),
        x_weight: T.Buffer((X,), "float32"),
        out: T.Buffer((N, Y, X, C), "float32"),
    ) -> None:
        rows = T.sblock_alloc_buffer((N, Y, W, C), "float32")
        for i, j, k, m in T.grid(N, Y, W, C):
            with T.sblock(ROWS):
                n, y, w, c = T.axis.remap("SSSS", [i, j, k, m])
                T.reads(x[n, T.int64(0) : H, w, c], y_at[0:2, y], y_weight[y])
                T.writes(rows[n, y, w, c])
                rows[n, y, w, c] = _mix(x[n, y_at[0, y], w, c], x[n, y_at[1, y], w, c], y_weight[y])
        for i, j, k, m in T.grid(N, Y, X, C):
            with T.sblock(COLUMNS):
                n, y, v, c = T.axis.remap("SSSS", [i, j, k, m])
                T.reads(rows[n, y, T.int64(0) : W, c], x_at[0:2, v], x_weight[v])
                T.writes(out[n, y, v, c])
                out[n, y, v, c] = _mix(rows[n, y, x_at[0, v], c], rows[n, y, x_at[1, v], c], x_weight[v])

    return resize


def _channels_first(P: IntImm, H: IntImm, W: IntImm, Y: IntImm, X: IntImm) -> PrimFunc:
    """P planes: batch times channels."""

    @T.prim_func(s_tir=True, private=True)
    def resize(
        x: T.Buffer((P, H, W), "float32"),
        y_at: T.Buffer((2, Y), "int32"),
        y_weight: T.Buffer((Y,), "float32"),
        x_at: T.Buffer((2, X), "int32"),
        x_weight: T.Buffer((X,), "float32"),
        out: T.Buffer((P, Y, X), "float32"),
    ) -> None:
        rows = T.sblock_alloc_buffer((P, Y, W), "float32")
        for i, j, k in T.grid(P, Y, W):
            with T.sblock(ROWS):
                p, y, w = T.axis.remap("SSS", [i, j, k])
                T.reads(x[p, T.int64(0) : H, w], y_at[0:2, y], y_weight[y])
                T.writes(rows[p, y, w])
                rows[p, y, w] = _mix(x[p, y_at[0, y], w], x[p, y_at[1, y], w], y_weight[y])
        for i, j, k in T.grid(P, Y, X):
            with T.sblock(COLUMNS):
                p, y, v = T.axis.remap("SSS", [i, j, k])
                T.reads(rows[p, y, T.int64(0) : W], x_at[0:2, v], x_weight[v])
                T.writes(out[p, y, v])
                out[p, y, v] = _mix(rows[p, y, x_at[0, v]], rows[p, y, x_at[1, v]], x_weight[v])

    return resize


def _mix(low, high, weight):
    return low + (high - low) * weight
