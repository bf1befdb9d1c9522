"""Equal of two booleans: TVM generates a comparison of floats for it, which LLVM refuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tvm import relax


def convert(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], params: Any, opset: int) -> Any:
    """`not (a xor b)`, or None for other types."""
    a, b = inputs
    if not all(isinstance(value.ty, relax.TensorType) and str(value.ty.dtype) == "bool" for value in (a, b)):
        return None
    return relax.op.logical_not(builder.normalize(relax.op.logical_xor(a, b)))
