"""Pad with constant widths and a constant value as `relax.nn.pad`, which the layout pass can read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tvm import relax
from tvm.ir import GenericConst


def convert(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], params: Any, opset: int) -> Any:
    """`relax.nn.pad`, or None for another mode, computed or negative widths, named axes, or old opsets."""
    mode = attributes.get("mode", b"constant")
    x, widths, value, axes = [*inputs, None, None, None][:4]
    if opset < 11 or mode != b"constant" or axes is not None or str(x.ty.dtype) != "float32":
        return None
    if not isinstance(widths, GenericConst) or not (value is None or isinstance(value, GenericConst)):
        return None
    pads = [int(width) for width in widths.value.numpy().reshape(-1)]
    if min(pads) < 0:
        return None
    num_dims = len(pads) // 2
    pairs = [width for axis in range(num_dims) for width in (pads[axis], pads[axis + num_dims])]
    fill = 0.0 if value is None else float(value.value.numpy().reshape(-1)[0])
    return relax.op.nn.pad(x, pairs, "constant", fill)
