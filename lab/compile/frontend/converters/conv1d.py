"""Convolution along one axis as one along two, of which the first has one row: that is what the schedules know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tvm import relax
from tvm.ir import GenericConst


def convert(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], params: Any, opset: int) -> Any:
    """`relax.nn.conv2d` of x [N, C, L] with a row axis; None for other ranks, automatic padding, computed weights."""
    x, weight, bias = [*inputs, None][:3]
    automatic = attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", "NOTSET")
    if len(x.ty.shape) != 3 or automatic or not isinstance(weight, GenericConst):
        return None
    array = weight.value.numpy()[:, :, None, :]
    begin, end = attributes.get("pads") or (0, 0)
    y = builder.emit(
        relax.op.nn.conv2d(
            builder.emit(relax.op.expand_dims(x, 2)),
            relax.const(array),
            strides=(1, *(attributes.get("strides") or (1,))),
            padding=(0, begin, 0, end),
            dilation=(1, *(attributes.get("dilations") or (1,))),
            groups=int(attributes.get("group", 1)),
            data_layout="NCHW",
            kernel_layout="OIHW",
        )
    )
    if bias is not None:
        y = builder.emit(relax.op.add(y, relax.op.reshape(bias, (1, -1, 1, 1))))
    return relax.op.squeeze(y, [2])
