"""Operators below which a transpose from NHWC to NCHW sinks: each as it reads when it works on NHWC itself.

A function of `SINKS` is given a call whose inputs may be such transposes; it returns the same operator on the values
above them, or None where it cannot. Adding an operator: one function or one line in the table, one test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tvm import relax
from tvm.ir import GenericConst

TO_CHANNELS_FIRST = [0, 3, 1, 2]
TO_CHANNELS_LAST = [0, 2, 3, 1]
NCHW_AXIS = {0: 0, 1: 3, 2: 1, 3: 2}  # axis of NCHW -> where NHWC has it


def axes_of(call: Any) -> list[int]:
    """The axes of a `permute_dims`, all of them and none negative."""
    num_dims = int(call.args[0].ty.ndim)
    if call.attrs.axes is None:
        return list(range(num_dims))[::-1]
    return [int(axis) % num_dims for axis in call.attrs.axes]


def compose(first: list[int], second: list[int]) -> list[int]:
    """The axes of `transpose(transpose(x, first), second)`."""
    return [first[axis] for axis in second]


@dataclass(frozen=True)
class Sinker:
    """What the functions below need of the graph under construction."""

    emit: Callable[[Any], Any]
    lookup: Callable[[Any], Any]

    def transpose_of(self, value: Any) -> tuple[Any, list[int]] | None:
        """The value and the axes, where `value` is a transpose."""
        bound = self.lookup(value) if isinstance(value, relax.Var) else None
        if bound is None or getattr(getattr(bound, "op", None), "name", "") != "relax.permute_dims":
            return None
        return bound.args[0], axes_of(bound)

    def above(self, value: Any) -> Any | None:
        """The NHWC value of which `value` is the NCHW transpose, or None."""
        found = self.transpose_of(value)
        return found[0] if found is not None and found[1] == TO_CHANNELS_FIRST else None

    def channels_last(self, value: Any) -> Any:
        """`value`, NCHW, as NHWC."""
        source = self.above(value)
        return source if source is not None else self.emit(relax.op.permute_dims(value, TO_CHANNELS_LAST))

    def operand(self, value: Any) -> Any:
        """An operand of an elementwise operator of rank 4, which may have fewer dimensions, in NHWC."""
        shape = static_shape(value)
        if all(dim == 1 for dim in shape):
            return value
        if len(shape) < 4:
            value = self.emit(relax.op.reshape(value, (*[1] * (4 - len(shape)), *shape)))
        return self.channels_last(value)

    def fields(self, value: Any) -> list[Any] | None:
        """The elements of a tuple, where they are known."""
        bound = self.lookup(value) if isinstance(value, relax.Var) else value
        return list(bound.fields) if isinstance(bound, relax.Tuple) else None


def static_shape(value: Any) -> list[int]:
    """The sizes of a tensor. Raises TypeError when one is not a number."""
    return [int(dim) for dim in value.ty.shape]


def _is_tensor(value: Any) -> bool:
    return isinstance(value.ty, relax.TensorType)


def _elementwise(sinker: Sinker, call: Any) -> Any | None:
    args = list(call.args)
    tensors = [arg for arg in args if _is_tensor(arg)]
    if all(sinker.above(arg) is None for arg in tensors) or any(len(static_shape(arg)) > 4 for arg in tensors):
        return None
    moved = [sinker.operand(arg) if _is_tensor(arg) else arg for arg in args]
    return relax.Call(call.op, moved, call.attrs, call.ty_args)


def _prelu(sinker: Sinker, call: Any) -> Any | None:
    source = sinker.above(call.args[0])
    return None if source is None else relax.op.nn.prelu(source, call.args[1], NCHW_AXIS[int(call.attrs.axis) % 4])


def _pool(make: Callable[..., Any]) -> Callable[[Sinker, Any], Any]:
    def sink(sinker: Sinker, call: Any) -> Any | None:
        source, attrs = sinker.above(call.args[0]), call.attrs
        if source is None or str(attrs.layout) != "NCHW":
            return None
        sizes = [[int(n) for n in value] for value in (attrs.pool_size, attrs.strides, attrs.padding, attrs.dilation)]
        return make(source, *sizes, bool(attrs.ceil_mode), bool(attrs.count_include_pad), "NHWC", "NHWC")

    return sink


def _adaptive_pool(sinker: Sinker, call: Any) -> Any | None:
    source, size = sinker.above(call.args[0]), call.attrs.output_size
    if source is None or str(call.attrs.layout) != "NCHW":
        return None
    return relax.op.nn.adaptive_avg_pool2d(source, [int(n) for n in size] if size else None, "NHWC", "NHWC")


def _concat(sinker: Sinker, call: Any) -> Any | None:
    values = sinker.fields(call.args[0])
    if values is None or all(sinker.above(value) is None for value in values):
        return None
    return relax.op.concat([sinker.channels_last(value) for value in values], NCHW_AXIS[int(call.attrs.axis) % 4])


def resize_in(call: Any, source: Any, layout: str) -> Any:
    """A `resize2d` like `call`, of another source in another layout."""
    attrs = call.attrs
    return relax.op.image.resize2d(
        source, call.args[1], [float(edge) for edge in attrs.roi], layout, attrs.method,
        attrs.coordinate_transformation_mode, attrs.rounding_method, attrs.cubic_alpha, attrs.cubic_exclude,
        attrs.extrapolation_value, attrs.out_dtype or None,
    )  # fmt: skip


def _resize(sinker: Sinker, call: Any) -> Any | None:
    source = sinker.above(call.args[0])
    return None if source is None or str(call.attrs.layout) != "NCHW" else resize_in(call, source, "NHWC")


def _reduction(make: Callable[..., Any]) -> Callable[[Sinker, Any], Any]:
    def sink(sinker: Sinker, call: Any) -> Any | None:
        source, attrs = sinker.above(call.args[0]), call.attrs
        if source is None or attrs.axis is None or not attrs.keepdims:
            return None
        return make(source, [NCHW_AXIS[int(axis) % 4] for axis in attrs.axis], True)

    return sink


def _softmax(sinker: Sinker, call: Any) -> Any | None:
    source = sinker.above(call.args[0])
    return None if source is None else relax.op.nn.softmax(source, NCHW_AXIS[int(call.attrs.axis) % 4])


def _slice(sinker: Sinker, call: Any) -> Any | None:
    source, axes = sinker.above(call.args[0]), sinker.fields(call.args[1])
    if source is None or axes is None:
        return None
    moved = [NCHW_AXIS[int(getattr(axis, "value", axis)) % 4] for axis in axes]
    bounds = [sinker.fields(bound) for bound in call.args[2:]]
    return relax.op.strided_slice(source, moved, *bounds, assume_inbound=bool(call.attrs.assume_inbound))


def _broadcast(sinker: Sinker, call: Any) -> Any | None:
    source, shape = sinker.above(call.args[0]), getattr(call.args[1], "values", None)
    if source is None or shape is None or len(shape) != 4:
        return None
    return relax.op.broadcast_to(source, [shape[axis] for axis in TO_CHANNELS_LAST])


def _pad(sinker: Sinker, call: Any) -> Any | None:
    source, attrs = sinker.above(call.args[0]), call.attrs
    if source is None:
        return None
    widths = [int(width) for width in attrs.pad_width]
    moved = [width for axis in TO_CHANNELS_LAST for width in widths[2 * axis : 2 * axis + 2]]
    return relax.op.nn.pad(source, moved, attrs.pad_mode, attrs.pad_value)


def _matmul(sinker: Sinker, call: Any) -> Any | None:
    """Products with a constant matrix along W (from the right) or H (from the left), which pooling may be."""
    left, right = call.args
    source = sinker.above(left)
    if source is not None and isinstance(right, GenericConst) and len(static_shape(right)) == 2:
        return relax.op.matmul(sinker.emit(relax.op.permute_dims(right, [1, 0])), source)
    source = sinker.above(right)
    if source is not None and isinstance(left, GenericConst) and len(static_shape(left)) == 2:
        n, h, w, c = static_shape(source)
        rows = sinker.emit(relax.op.matmul(left, sinker.emit(relax.op.reshape(source, (n, h, w * c)))))
        return relax.op.reshape(rows, (n, static_shape(left)[0], w, c))
    return None


ELEMENTWISE = (
    "abs", "acos", "add", "asin", "astype", "atan", "ceil", "clip", "cos", "cosh", "divide", "equal", "erf", "exp",
    "floor", "floor_divide", "greater", "greater_equal", "isfinite", "isnan", "less", "less_equal", "log",
    "logical_and", "logical_not", "logical_or", "maximum", "minimum", "mod", "multiply", "negative", "nn.gelu",
    "nn.gelu_tanh", "nn.leakyrelu", "nn.relu", "nn.relu6", "nn.selu", "nn.silu", "nn.softplus", "not_equal", "power",
    "round", "rsqrt", "sigmoid", "sign", "sin", "sinh", "sqrt", "square", "subtract", "tan", "tanh", "where",
)  # fmt: skip

SINKS: Mapping[str, Callable[[Sinker, Any], Any | None]] = {
    **{f"relax.{name}": _elementwise for name in ELEMENTWISE},
    "relax.nn.prelu": _prelu,
    "relax.nn.max_pool2d": _pool(relax.op.nn.max_pool2d),
    "relax.nn.avg_pool2d": _pool(relax.op.nn.avg_pool2d),
    "relax.nn.adaptive_avg_pool2d": _adaptive_pool,
    "relax.concat": _concat,
    "relax.image.resize2d": _resize,
    "relax.mean": _reduction(relax.op.mean),
    "relax.sum": _reduction(relax.op.sum),
    "relax.max": _reduction(relax.op.max),
    "relax.min": _reduction(relax.op.min),
    "relax.nn.softmax": _softmax,
    "relax.strided_slice": _slice,
    "relax.broadcast_to": _broadcast,
    "relax.nn.pad": _pad,
    "relax.matmul": _matmul,
}
