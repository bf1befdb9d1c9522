"""Convolutions and products of whole numbers in 8 bits, as `integer_graph` exposes them, become integer kernels."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np
from tvm import relax
from tvm.ir import GenericConst, IRModule

from lab.compile.kernels import emit
from lab.compile.kernels.integer_conv import IntegerConvolution, integer_conv2d, padded_weights
from lab.compile.passes.rewrite import rewrite_functions

STORED = "uint8"
INT8 = np.iinfo(np.int8)


def integer_products(mod: IRModule, num_lanes: int) -> IRModule:
    """Replace every NHWC `conv2d` and `matmul` of `stored - zero point` and whole-numbered constant weights.

    Args:
        num_lanes: 32-bit lanes of the target's vectors; outputs are computed in whole vectors.
    """
    return rewrite_functions(_Replacer(mod, num_lanes), mod)


class _Operand(NamedTuple):
    stored: Any
    zero_point: int


class _Window(NamedTuple):
    strides: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]


ONE = _Window((1, 1), (0, 0, 0, 0), (1, 1))


@relax.expr_functor.mutator
class _Replacer(relax.PyExprMutator):  # type: ignore[misc]
    def __init__(self, mod: IRModule, num_lanes: int) -> None:
        super().__init__(mod)
        self.num_lanes = num_lanes

    def visit_call_(self, call: Any) -> Any:
        call = self.visit_expr_post_order(call)
        name = getattr(call.op, "name", "")
        made = None
        if name == "relax.nn.conv2d":
            made = self._convolution(call)
        elif name == "relax.matmul":
            made = self._product(call)
        return call if made is None else made

    def _convolution(self, call: Any) -> Any | None:
        attrs, data, weights = call.attrs, self._operand(call.args[0]), _integers(call.args[1])
        if str(attrs.data_layout) != "NHWC" or int(attrs.groups) != 1 or data is None or weights is None:
            return None
        if _static(data.stored) is None:
            return None
        window = _Window(*(tuple(int(n) for n in values) for values in (attrs.strides, attrs.padding, attrs.dilation)))
        return self._emit(data, weights, window)

    def _product(self, call: Any) -> Any | None:
        """[..., C] x [C, K] is a 1x1 convolution of one image of one row."""
        data, weights = self._operand(call.args[0]), _integers(call.args[1])
        shape = None if data is None else _static(data.stored)
        if data is None or weights is None or shape is None or weights.ndim != 2 or len(shape) < 2:
            return None
        image = [1, 1, prod(shape[:-1]), shape[-1]]
        flat = _Operand(self.builder_.emit(relax.op.reshape(data.stored, image)), data.zero_point)
        result = self._emit(flat, weights[None, None], ONE)
        return relax.op.reshape(self.builder_.emit(result), (*shape[:-1], weights.shape[1]))

    def _emit(self, data: _Operand, weights: np.ndarray, window: _Window) -> Any:
        outputs = weights.shape[3]
        stored = padded_weights(weights, self.num_lanes)
        correction = data.zero_point * stored.astype(np.int64).sum(axis=(0, 1, 2))
        shape = tuple(int(dim) for dim in data.stored.ty.shape)
        conv = IntegerConvolution(shape, stored.shape, *window, data.zero_point)
        constants = [relax.const(stored), relax.const(correction.astype(np.int32))]
        made = emit.call(self.builder_, integer_conv2d(conv), [data.stored, *constants])
        if stored.shape[3] == outputs:
            return made
        return relax.op.strided_slice(self.builder_.emit(made), [3], [0], [outputs], [1])

    def _operand(self, value: Any) -> _Operand | None:
        """The 8-bit tensor and its zero point, where `value` is their difference in floats, or a transpose of it."""
        bound, zero_point = self._bound(value), 0
        if _is_call(bound, "relax.permute_dims"):
            above = self._operand(bound.args[0])
            if above is None:
                return None
            return _Operand(self.builder_.emit(relax.op.permute_dims(above.stored, bound.attrs.axes)), above.zero_point)
        if _is_call(bound, "relax.subtract") and isinstance(bound.args[1], GenericConst):
            zero = bound.args[1].value.numpy()
            if zero.size != 1 or zero.item() not in range(256):
                return None
            bound, zero_point = self._bound(bound.args[0]), int(zero.item())
        if not _is_call(bound, "relax.astype") or str(bound.args[0].ty.dtype) != STORED:
            return None
        return _Operand(bound.args[0], zero_point)

    def _bound(self, value: Any) -> Any:
        return self.lookup_binding(value) if isinstance(value, relax.Var) else value


def _is_call(value: Any, name: str) -> bool:
    return getattr(getattr(value, "op", None), "name", "") == name


def _static(value: Any) -> list[int] | None:
    dims = [getattr(dim, "value", None) for dim in value.ty.shape]
    return None if None in dims else [int(dim) for dim in dims if dim is not None]


def _integers(value: Any) -> np.ndarray | None:
    """A constant's values where all of them are whole numbers of 8 bits with sign."""
    if not isinstance(value, GenericConst) or str(value.ty.dtype) != "float32":
        return None
    array = value.value.numpy()
    if array.ndim not in (2, 4) or array.size == 0 or array.min() < INT8.min or array.max() > INT8.max:
        return None
    return array if np.array_equal(array, np.rint(array)) else None
