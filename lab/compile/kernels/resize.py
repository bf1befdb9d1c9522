"""Bilinear resizing in two steps, rows then columns, with the source positions and weights computed at compile time.

Shapes: H W of the source, Y X of the result.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from lab.compile.kernels import emit
from lab.compile.kernels.bilinear import bilinear


def legalize(builder: Any, call: Any) -> Any:
    """The replacement of a `relax.image.resize2d`, or None where it is not bilinear, float and of known coordinates."""
    attrs, (x, size) = call.attrs, call.args
    layout, mode = str(attrs.layout), str(attrs.coordinate_transformation_mode)
    if str(attrs.method) != "linear" or layout not in ("NCHW", "NHWC") or mode not in COORDINATES:
        return None
    if str(x.ty.dtype) != "float32" or any(not hasattr(dim, "value") for dim in (*x.ty.shape, *size.values)):
        return None
    shape = [int(dim) for dim in x.ty.shape]
    height, width = (int(x.ty.shape[layout.index(axis)]) for axis in "HW")
    new_height, new_width = (int(dim) for dim in size.values)
    if height == width == 1:
        shape[layout.index("H")], shape[layout.index("W")] = new_height, new_width
        return relax.op.broadcast_to(x, shape)
    tables = [table for sizes in ((height, new_height), (width, new_width)) for table in taps(*sizes, mode)]
    func = bilinear(shape, new_height, new_width, layout)
    if layout == "NHWC":
        return emit.call(builder, func, [x, *(relax.const(table) for table in tables)])
    planes = builder.emit(relax.op.reshape(x, (shape[0] * shape[1], *shape[2:])))
    resized = builder.emit(emit.call(builder, func, [planes, *(relax.const(table) for table in tables)]))
    return relax.op.reshape(resized, (*shape[:2], new_height, new_width))


def taps(size: int, new_size: int, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """For each output position the two source positions (int32 [2, new_size]) and the weight of the second (float32).

    Source: ONNX, operator Resize, `coordinate_transformation_mode`; positions beyond the edge repeat it.
    """
    at = np.clip(COORDINATES[mode](np.arange(new_size, dtype=np.float64), size, new_size), 0, size - 1)
    first = np.floor(at).astype(np.int32)
    second = np.minimum(first + 1, size - 1)
    return np.stack([first, second]), (at - first).astype(np.float32)


COORDINATES = {
    "half_pixel": lambda x, size, new: (x + 0.5) * size / new - 0.5,
    "pytorch_half_pixel": lambda x, size, new: (x + 0.5) * size / new - 0.5 if new > 1 else 0 * x,
    "align_corners": lambda x, size, new: x * (size - 1) / (new - 1) if new > 1 else 0 * x,
    "asymmetric": lambda x, size, new: x * size / new,
}
