"""Cast of a value that was clipped to the range of its new type: nothing to check for, so a plain conversion.

TVM's converter guards every conversion of a float to an integer against infinities, which neither fuses into the kernel
ahead of it nor lets a layout pass through. Quantised graphs clip and cast at every step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from tvm import relax


def convert(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], params: Any, opset: int) -> Any:
    """`relax.astype` of a `relax.clip` to bounds that the integer type holds, or None for any other cast."""
    clip: Any = builder.lookup_binding(inputs[0]) if isinstance(inputs[0], relax.Var) else inputs[0]
    target = onnx.helper.tensor_dtype_to_np_dtype(attributes["to"])
    if getattr(getattr(clip, "op", None), "name", "") != "relax.clip" or target.kind not in "iu":
        return None
    low, high = (float(bound.value) for bound in clip.args[1:])
    limits = np.iinfo(target)
    return relax.op.astype(inputs[0], target.name) if limits.min <= low and high <= limits.max else None
