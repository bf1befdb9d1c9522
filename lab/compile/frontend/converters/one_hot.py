"""OneHot of a known depth, along any axis, for values of any type; TVM's makes float64 of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tvm import relax
from tvm.ir import GenericConst

from lab.core.errors import UnsupportedError


def convert(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], params: Any, opset: int) -> Any:
    """`where(index == position, on, off)`; a negative index counts from the end, one outside has no position.

    Raises UnsupportedError where the depth is computed.
    """
    indices, depth, values = inputs
    if not isinstance(depth, GenericConst) or not isinstance(values, GenericConst):
        raise UnsupportedError("OneHot of a depth or values that are computed at run time cannot be compiled")
    off, on = (relax.const(value) for value in values.value.numpy())
    size = int(depth.value.numpy().reshape(-1)[0])
    rank = len(indices.ty.shape)
    axis = int(attributes.get("axis", -1)) % (rank + 1)
    whole = builder.emit(relax.op.astype(indices, "int64"))
    shifted = builder.emit(relax.op.add(whole, relax.const(size, "int64")))
    negative = builder.emit(relax.op.less(whole, relax.const(0, "int64")))
    index = builder.emit(relax.op.expand_dims(builder.emit(relax.op.where(negative, shifted, whole)), axis))
    positions = np.arange(size, dtype=np.int64).reshape([-1 if a == axis else 1 for a in range(rank + 1)])
    return relax.op.where(builder.emit(relax.op.equal(index, relax.const(positions))), on, off)
