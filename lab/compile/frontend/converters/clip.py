"""Clip with constant bounds (ReLU6) as `relax.clip`: TVM's converter makes opaque kernels that no pass sees into."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tvm import relax
from tvm.ir import GenericConst

FLOATS = ("float32", "float64")


def convert(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], params: Any, opset: int) -> Any:
    """`relax.clip`, or None where a bound is computed or the type is not a float."""
    if str(inputs[0].ty.dtype) not in FLOATS and str(getattr(inputs[0].ty.dtype, "dtype", "")) not in FLOATS:
        return None
    if opset < 11:
        low, high = attributes.get("min", -math.inf), attributes.get("max", math.inf)
    else:
        bounds = [inputs[i] if i < len(inputs) else None for i in (1, 2)]
        if any(bound is not None and not isinstance(bound, GenericConst) for bound in bounds):
            return None
        low, high = (_value(bound, default) for bound, default in zip(bounds, (-math.inf, math.inf), strict=True))
    return relax.op.clip(inputs[0], float(low), float(high))


def _value(bound: Any, default: float) -> float:
    """A bound that is missing or NaN does not bound."""
    value = default if bound is None else float(bound.value.numpy())
    return default if math.isnan(value) else value
