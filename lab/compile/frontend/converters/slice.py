"""Slice of opsets before 10, whose bounds are attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tvm import relax


def convert(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], params: Any, opset: int) -> Any:
    """`relax.strided_slice`, or None from opset 10 on."""
    if opset >= 10:
        return None
    begins, ends = ([int(bound) for bound in attributes[name]] for name in ("starts", "ends"))
    axes = [int(axis) for axis in attributes.get("axes") or range(len(begins))]
    most = np.iinfo(np.int32).max
    return relax.op.strided_slice(inputs[0], axes, begins, [min(end, most) for end in ends])
