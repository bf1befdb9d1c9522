"""Resize of named axes, of channels-last images and of opset 10, and Upsample: in the form TVM's converter reads.

TVM resizes the last dimensions, whatever the scales say, and reads only full lists of sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tvm import relax
from tvm.ir import GenericConst

from lab.compile.frontend.converters.simple import static_shape
from lab.core.errors import UnsupportedError

OPSET = 13  # inputs x, roi, scales, sizes
# Before opset 11 positions were x / scale, and the nearest one the one below.
OLD = {"coordinate_transformation_mode": b"asymmetric", "nearest_mode": b"floor"}


def convert(builder: Any, inputs: Sequence[Any], attributes: Any, params: Any, opset: int) -> Any:
    """The resized tensor. None where TVM's converter is right as it is.

    Raises UnsupportedError, naming what it is that cannot be compiled.
    """
    x = inputs[0]
    dims = static_shape(x)
    roi, scales, sizes = _operands(inputs, attributes, opset)
    if dims is None or roi is not None or (scales is None and sizes is None):
        if opset < 11:
            raise UnsupportedError("Resize with computed scales cannot be compiled")
        return None
    axes = [int(axis) % len(dims) for axis in attributes.get("axes") or range(len(dims))]
    if attributes.get("keep_aspect_ratio_policy", b"stretch") not in (b"stretch", "stretch"):
        raise UnsupportedError("Resize that keeps the aspect ratio cannot be compiled")
    wanted, factors = list(dims), [1.0] * len(dims)
    for i, axis in enumerate(axes):
        factors[axis] = float(scales[i]) if scales is not None else float(sizes[i]) / dims[axis]
        wanted[axis] = int(sizes[i]) if sizes is not None else int(np.floor(dims[axis] * factors[axis]))
    changed = [axis for axis in range(len(dims)) if factors[axis] != 1]
    if len(changed) > len(dims) - 2:
        raise UnsupportedError("Resize of samples or channels cannot be compiled", got=f"{dims} to {wanted}")
    order = [axis for axis in range(len(dims)) if axis not in changed] + changed
    if all(axis >= 2 for axis in changed):
        order = list(range(len(dims)))
    options = {name: value for name, value in attributes.items() if name not in ("axes", "keep_aspect_ratio_policy")}
    if opset < 11:
        options = {"mode": b"linear" if attributes.get("mode") in (b"linear", b"bilinear") else b"nearest"} | OLD
    moved = x if order == sorted(order) else builder.emit(relax.op.permute_dims(x, order))
    y = _of_tvm(builder, moved, [wanted[axis] for axis in order], options)
    return y if order == sorted(order) else relax.op.permute_dims(builder.emit(y), list(np.argsort(order)))


def _operands(inputs: Sequence[Any], attributes: Mapping[str, Any], opset: int) -> tuple[Any, Any, Any]:
    """roi, scales and sizes; None for those not given or empty."""
    rest = [*inputs, None, None, None][1:4]
    if opset < 11:
        given = attributes.get("scales")
        if given is None and attributes.get("height_scale"):  # opset 1 to 6
            given = [1, 1, attributes["height_scale"], attributes["width_scale"]]
        scales = np.array(given) if given is not None else _value(rest[0])
        return None, scales, None
    crop = attributes.get("coordinate_transformation_mode") in (b"tf_crop_and_resize", "tf_crop_and_resize")
    return (rest[0] if crop else None), _value(rest[1]), _value(rest[2])


def _value(operand: Any) -> np.ndarray | None:
    if not isinstance(operand, GenericConst):
        return None
    array = np.asarray(operand.value.numpy()).reshape(-1)
    return array if array.size else None


def _of_tvm(builder: Any, x: Any, wanted: list[int], options: Mapping[str, Any]) -> Any:
    from tvm.relax.frontend.onnx import onnx_frontend

    converter = onnx_frontend.Resize.get_converter(OPSET)
    sizes, empty = relax.const(np.array(wanted, np.int64)), relax.const(np.zeros(0, np.float32))
    return converter(builder, [x, empty, None, sizes], dict(options), ({}, {}))
