"""Operators of one line or a few, where TVM's converter ignores an attribute, an output or a rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
from tvm import relax, te
from tvm.ir import GenericConst
from tvm.tirx import const
from tvm.tirx import max as max_op
from tvm.tirx import min as min_op

from lab.core.errors import UnsupportedError


def num_outputs(attributes: Mapping[str, Any]) -> int:
    """How many outputs of the node have a name."""
    return int(attributes["tvm_custom"]["num_outputs"])


def static_shape(value: Any) -> list[int] | None:
    """The shape of a tensor, or None where a dimension is open."""
    dims = [getattr(dim, "value", dim) for dim in getattr(value.ty.shape, "values", value.ty.shape)]
    return [int(dim) for dim in dims] if all(isinstance(dim, int) for dim in dims) else None


def shape(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], params: Any, opset: int) -> Any:
    """`Shape` of a static shape as a constant; TVM makes a shape value, which no caller takes for a tensor."""
    dims = static_shape(inputs[0]) if isinstance(inputs[0].ty, relax.TensorType) else None
    if dims is None:
        return None
    return relax.const(np.array(dims[attributes.get("start", 0) : attributes.get("end")]), "int64")


def dropout(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], params: Any, opset: int) -> Any:
    """`Dropout` of a model that predicts: the input, and a mask that keeps everything."""
    if num_outputs(attributes) == 1:
        return inputs[0]
    dims = static_shape(inputs[0])
    if dims is None:
        return None
    return relax.Tuple([inputs[0], relax.const(np.ones(dims, np.bool_))])


def expand(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], params: Any, opset: int) -> Any:
    """`Expand` to a constant shape: both sides broadcast.

    Raises UnsupportedError where the shape is computed from the model's inputs: TVM's converter forgets x's own sizes.
    """
    x, wanted = inputs
    if not isinstance(wanted, GenericConst) and not isinstance(wanted.ty, relax.ShapeType):
        raise UnsupportedError("Expand to a shape that is computed at run time cannot be compiled")
    dims = static_shape(x)
    if dims is None or not isinstance(wanted, GenericConst):
        return None
    result = np.broadcast_shapes(tuple(dims), tuple(int(dim) for dim in wanted.value.numpy()))
    return relax.op.broadcast_to(x, relax.ShapeExpr(list(result)))


def is_inf(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], params: Any, opset: int) -> Any:
    """`IsInf` of one sign."""
    positive, negative = (attributes.get(f"detect_{sign}", 1) for sign in ("positive", "negative"))
    if positive == negative:
        return None if positive else relax.op.zeros_like(inputs[0], "bool")
    infinity = relax.const(np.inf if positive else -np.inf, str(inputs[0].ty.dtype))
    return relax.op.equal(inputs[0], infinity)


def layer_normalization(
    builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], params: Any, opset: int
) -> Any:
    """`LayerNormalization` whose mean or inverse deviation is used as well."""
    if num_outputs(attributes) == 1:
        return None
    x, scale, bias = [*inputs, None][:3]
    rank = len(x.ty.shape)
    axes = list(range(int(attributes.get("axis", -1)) % rank, rank))
    mean = builder.emit(relax.op.mean(x, axes, keepdims=True))
    centred = builder.emit(relax.op.subtract(x, mean))
    variance = builder.emit(relax.op.mean(relax.op.multiply(centred, centred), axes, keepdims=True))
    epsilon = relax.const(float(attributes.get("epsilon", 1e-5)), str(x.ty.dtype))
    inverse = builder.emit(relax.op.rsqrt(relax.op.add(variance, epsilon)))
    y = relax.op.multiply(relax.op.multiply(centred, inverse), scale)
    y = builder.emit(y if bias is None else relax.op.add(y, bias))
    return relax.Tuple([y, mean, inverse])


def bit_shift(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], params: Any, opset: int) -> Any:
    """`BitShift` by less than nothing or by all the bits: what remains is the sign, or nothing."""
    x, amount = inputs
    dtype = str(x.ty.dtype)
    width = np.dtype(dtype).itemsize * 8
    zero = relax.const(0, dtype)
    inside = relax.op.less(amount, relax.const(width, dtype))
    if not dtype.startswith("u"):
        inside = relax.op.logical_and(inside, relax.op.greater_equal(amount, zero))
    safe = relax.op.where(inside, amount, zero)
    if attributes["direction"] in (b"LEFT", "LEFT"):
        return relax.op.where(inside, relax.op.left_shift(x, safe), zero)
    rest = zero if dtype.startswith("u") else relax.op.where(relax.op.less(x, zero), relax.const(-1, dtype), zero)
    return relax.op.where(inside, relax.op.right_shift(x, safe), rest)


def conv_transpose(builder: Any, inputs: Sequence[Any], attributes: Any, params: Any, opset: int) -> None:
    """`ConvTranspose` with an `output_shape`: the padding that gives it, for TVM's converter to go on with."""
    wanted = attributes.pop("output_shape", None)
    dims = static_shape(inputs[0])
    if not wanted or dims is None:
        return
    num_dims = len(dims) - 2
    sizes, kernel = dims[2:], attributes.get("kernel_shape") or (static_shape(inputs[1]) or [])[2:]
    strides, dilations = (attributes.get(name) or [1] * num_dims for name in ("strides", "dilations"))
    extra = list(attributes.get("output_padding") or [0] * num_dims)
    upper = attributes.pop("auto_pad", b"NOTSET") in (b"SAME_UPPER", "SAME_UPPER")
    begins, ends = [], []
    for axis, size in enumerate(list(wanted)[-num_dims:]):
        full = strides[axis] * (sizes[axis] - 1) + extra[axis] + (kernel[axis] - 1) * dilations[axis] + 1
        total = full - size
        if total < 0:  # nothing to cut off: rows of zeros are added at the end
            extra[axis] -= total
            total = 0
        begins.append(total // 2 if upper else total - total // 2)
        ends.append(total - begins[-1])
    attributes["pads"], attributes["output_padding"] = begins + ends, extra


def pairwise(operator: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """`Sum`, `Max`, `Min` of any number of tensors, two at a time: these fuse with their neighbours.

    TVM's converter stacks broadcast copies of all of them and reduces the stack.
    """

    def convert(builder: Any, inputs: Sequence[Any], attributes: Any, params: Any, opset: int) -> Any:
        if not all(isinstance(value.ty, relax.TensorType) for value in inputs):
            return None
        if all(isinstance(value, GenericConst) for value in inputs):
            return None
        return reduce(lambda a, b: builder.normalize(operator(a, b)), inputs)

    return convert


sum_of = pairwise(relax.op.add)
max_of = pairwise(relax.op.maximum)
min_of = pairwise(relax.op.minimum)


def mean_of(builder: Any, inputs: Sequence[Any], attributes: Any, params: Any, opset: int) -> Any:
    """`Mean` of any number of tensors."""
    total = sum_of(builder, inputs, attributes, params, opset)
    return (
        None
        if total is None
        else relax.op.divide(builder.normalize(total), relax.const(len(inputs), str(inputs[0].ty.dtype)))
    )


def reduce_max(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], params: Any, opset: int) -> Any:
    """`ReduceMax` that starts from minus infinity; TVM's starts from the smallest number, which is then its result."""
    return _reduce(builder, inputs, attributes, opset, largest=True)


def reduce_min(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], params: Any, opset: int) -> Any:
    """`ReduceMin` that starts from infinity."""
    return _reduce(builder, inputs, attributes, opset, largest=False)


def _reduce(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], opset: int, *, largest: bool) -> Any:
    x, axes = [*inputs, None][:2]
    if "float" not in str(x.ty.dtype) or (axes is not None and not isinstance(axes, GenericConst)):
        return None
    named = attributes.get("axes") if axes is None else [int(axis) for axis in axes.value.numpy().reshape(-1)]
    if not named and attributes.get("noop_with_empty_axes", 0):
        return x
    rank = len(x.ty.shape)
    reduced = sorted(int(axis) % rank for axis in named or range(rank))
    return builder.emit_te(_extreme, x, reduced, bool(attributes.get("keepdims", 1)), largest, primfunc_name_hint="max")


def _extreme(x: Any, reduced: list[int], keepdims: bool, largest: bool) -> Any:
    identity = -np.inf if largest else np.inf
    extreme = max_op if largest else min_op
    pick = te.comm_reducer(lambda x, y: extreme(x, y), lambda dtype: const(identity, dtype), name="extreme")
    axes = [te.reduce_axis((0, x.shape[axis]), name=f"k{axis}") for axis in reduced]
    kept = [x.shape[axis] for axis in range(len(x.shape)) if axis not in reduced]
    shape = [1 if axis in reduced else x.shape[axis] for axis in range(len(x.shape))] if keepdims else kept

    def value(*indices: Any) -> Any:
        rest = iter(index for axis, index in enumerate(indices) if not keepdims or axis not in reduced)
        inner = iter(axes)
        return pick(x(*[next(inner) if axis in reduced else next(rest) for axis in range(len(x.shape))]), axis=axes)

    return te.compute(shape, value, name="extreme")
