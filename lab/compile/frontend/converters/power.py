"""Pow whose exponent has another type than its base, or of whole numbers: TVM's takes two floats of one type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tvm import relax
from tvm.ir import GenericConst

from lab.core.errors import UnsupportedError

MAX_EXPONENT = 16


def convert(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], params: Any, opset: int) -> Any:
    """The power in the base's type, or None where both are floats of one type.

    Raises UnsupportedError for whole bases with an exponent other than a small constant: no float holds all results.
    """
    base, exponent = inputs
    kind, other = (str(value.ty.dtype).removeprefix("T.") for value in inputs)
    if "float" in kind:
        return None if kind == other else relax.op.power(base, builder.emit(relax.op.astype(exponent, kind)))
    values = exponent.value.numpy() if isinstance(exponent, GenericConst) else None
    if values is None or values.size != 1 or not 0 <= float(values.reshape(-1)[0]) <= MAX_EXPONENT or values.ndim > 1:
        raise UnsupportedError("Pow of whole numbers with this exponent cannot be compiled", got=f"base {kind}",
                               expected=f"a constant exponent of 0 to {MAX_EXPONENT}")  # fmt: skip
    number = float(values.reshape(-1)[0])
    if number != int(number):
        raise UnsupportedError("Pow of whole numbers with a broken exponent cannot be compiled", got=number)
    result = builder.emit(relax.op.ones_like(base))
    for _ in range(int(number)):
        result = builder.emit(relax.op.multiply(result, base))
    return result
