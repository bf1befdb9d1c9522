"""Convolution of unsigned by signed 8-bit numbers in NHWC, summed in 32 bits: what dot-product instructions compute.

Shapes: N batch, H W positions of the input, Y X of the result, C input channels in whole groups of four, K outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import te, tirx
from tvm.tirx import PrimFunc

from lab.compile.kernels import emit

NAME = "integer_conv2d"
PAD, PRODUCT, RESULT = "integer_pad", "integer_product", "integer_result"
DEPTH = 4  # 8-bit products that one 32-bit lane of a dot-product instruction sums


@dataclass(frozen=True)
class IntegerConvolution:
    """`data` is NHWC, `weights` RSCK; `padding` top, left, bottom, right; what is padded counts as `zero_point`."""

    data: tuple[int, ...]
    weights: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    zero_point: int

    @property
    def result(self) -> tuple[int, int, int, int]:
        """N, Y, X, K."""
        n, h, w, _ = self.data
        r, s, _, k = self.weights
        top, left, bottom, right = self.padding
        y = (h + top + bottom - self.dilation[0] * (r - 1) - 1) // self.strides[0] + 1
        x = (w + left + right - self.dilation[1] * (s - 1) - 1) // self.strides[1] + 1
        return n, y, x, k


def padded_weights(weights: np.ndarray, num_lanes: int) -> np.ndarray:
    """Integers [R,S,C,K] as int8 with zero channels up to whole groups of inputs and whole vectors of outputs."""
    extra = [-size % unit for size, unit in zip(weights.shape[2:], (DEPTH, num_lanes), strict=True)]
    return np.pad(weights, [(0, 0), (0, 0), (0, extra[0]), (0, extra[1])]).astype(np.int8)


def integer_conv2d(conv: IntegerConvolution) -> PrimFunc:
    """`(data u8 [N,H,W,C], weights i8 [R,S,C',K], correction i32 [K]) -> float32 [N,Y,X,K]`.

    C' is C in whole groups of four. The result is the sum of `data * weights` less `correction`, which is the zero
    point times the sum of an output's weights.
    """
    n, h, w, c = emit.sizes(*conv.data)
    r, s, groups, k = emit.sizes(*conv.weights)
    top, left, bottom, right = conv.padding
    _, y, x, _ = emit.sizes(*conv.result)
    data = te.placeholder((n, h, w, c), "uint8", name="data")
    weights = te.placeholder((r, s, groups, k), "int8", name="weights")
    correction = te.placeholder((k,), "int32", name="correction")
    padded = data
    if any(conv.padding) or conv.data[3] != conv.weights[2]:
        zero = tirx.const(conv.zero_point, "uint8")

        def pad(i: tirx.Var, row: tirx.Var, column: tirx.Var, channel: tirx.Var) -> tirx.PrimExpr:
            inside = [row >= top, row < h + top, column >= left, column < w + left, channel < c]
            return tirx.if_then_else(tirx.all(*inside), data[i, row - top, column - left, channel], zero)

        padded = te.compute((n, h + top + bottom, w + left + right, groups), pad, name=PAD)
    dr, ds, dc = te.reduce_axis((0, r), "r"), te.reduce_axis((0, s), "s"), te.reduce_axis((0, groups), "c")

    def product(i: tirx.Var, row: tirx.Var, column: tirx.Var, output: tirx.Var) -> tirx.PrimExpr:
        value = padded[
            i, row * conv.strides[0] + dr * conv.dilation[0], column * conv.strides[1] + ds * conv.dilation[1], dc
        ]
        return te.sum(value.astype("int32") * weights[dr, ds, dc, output].astype("int32"), axis=[dr, ds, dc])

    total = te.compute((n, y, x, k), product, name=PRODUCT)
    result = te.compute((n, y, x, k), lambda *i: (total(*i) - correction[i[3]]).astype("float32"), name=RESULT)
    func = te.create_prim_func([data, weights, correction, result])
    return emit.named(func, NAME, emit.ELEMENTWISE_BEHIND)
