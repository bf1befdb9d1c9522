"""What a kernel costs: floating-point operations and bytes of its arguments, for the report and the roofline."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tvm.s_tir.analysis import estimate_tir_flops
from tvm.tirx import PrimFunc

from lab.compile.kernels import recurrent, suppression, top_k
from lab.compile.kernels.emit import name_of

OP_KINDS = (
    "group_conv2d", "conv2d_transpose", "conv2d", "conv1d", "conv3d", "matmul", "softmax", "pool_max", "pool_avg",
    "max_pool", "avg_pool", "adaptive_pool", "mean", "resize", "transpose", "concat",
)  # fmt: skip
HAND_WRITTEN = (suppression.NAME, top_k.NAME)


@dataclass(frozen=True)
class Cost:
    op_kind: str
    flops: int
    num_bytes: int


def kernel_cost(func: PrimFunc) -> Cost:
    """Cost of one call; 0 FLOPs where a shape is symbolic and cannot be counted."""
    import tvm

    name = name_of(func)
    if name == recurrent.NAME:
        num_steps = getattr(func.params[0].shape[0], "value", 1)  # an open length counts as one step
        return Cost(name, recurrent.layer_of(func).step_flops * int(num_steps), sum(_num_bytes(p) for p in func.params))
    if name in HAND_WRITTEN:  # comparisons and moves in loops that end early: nothing to count
        return Cost(name, 0, sum(_num_bytes(p) for p in func.params))
    text = func.script()
    blocks = re.findall(r'T\.sblock\("([A-Za-z_0-9]+)"\)', text)
    kind = next((k for k in OP_KINDS if any(k in block for block in blocks)), blocks[-1] if blocks else "opaque")
    try:
        flops = int(estimate_tir_flops(tvm.IRModule({"main": func})))
    except Exception:  # noqa: BLE001  TVM counts only static loop nests and says so by several exception types
        flops = 0
    return Cost(kind, flops, sum(_num_bytes(p) for p in func.params if hasattr(p, "shape")))


def _num_bytes(buffer: object) -> int:
    size = int(re.findall(r"\d+", str(buffer.dtype))[0]) // 8 if re.findall(r"\d+", str(buffer.dtype)) else 1  # type: ignore[attr-defined]
    for dim in buffer.shape:  # type: ignore[attr-defined]
        size *= int(getattr(dim, "value", 1))
    return size
