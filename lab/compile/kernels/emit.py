"""Put a kernel into a Relax module and call it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax
from tvm.tirx import IntImm, PrimFunc

KERNEL = "lab.kernel"
ELEMENTWISE_BEHIND = 4  # TVM's kOutEWiseFusable: elementwise neighbours behind it join the kernel
OPAQUE = 8  # TVM's kOpaque: the kernel stays alone


def named(func: PrimFunc, name: str, pattern: int = OPAQUE, **attributes: Any) -> PrimFunc:
    """The kernel with its name, how it may be fused, and what its schedule needs to know."""
    marks = {KERNEL: name, "op_pattern": pattern, "tirx.noalias": True}
    return func.without_attr("global_symbol").with_attrs(
        marks | {f"lab.{key}": value for key, value in attributes.items()}
    )


def sizes(*values: int) -> tuple[IntImm, ...]:
    """Sizes of a kernel that may fuse, in the type of TVM's own kernels, since buffers of other types do not fuse."""
    return tuple(IntImm("int64", value) for value in values)


def name_of(func: PrimFunc) -> str:
    """Which of these kernels `func` is; "" for any other."""
    return str(func.attrs[KERNEL]) if func.attrs and KERNEL in func.attrs else ""


def call(
    builder: Any, func: PrimFunc, arguments: Sequence[Any], num_outputs: int = 1, shapes: Sequence[Any] = ()
) -> Any:
    """Add `func` to the module under construction and return the call; the last parameters are the outputs.

    `shapes` are those of the outputs in the caller's terms, where they are not all numbers.
    """
    var = builder.add_func(func, str(func.attrs[KERNEL]))
    outputs = list(func.params)[-(len(shapes) or num_outputs) :]
    known = shapes or [[int(dim) for dim in out.shape] for out in outputs]
    types = [relax.TensorType(list(shape), str(out.dtype)) for shape, out in zip(known, outputs, strict=True)]
    return relax.call_tir(var, list(arguments), types[0] if len(types) == 1 else types)
