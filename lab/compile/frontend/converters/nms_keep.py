"""`lab::NmsKeep` (`lab.nn.nms`): one kernel in place of the loop that the function's body is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lab.compile.kernels import emit, suppression

LANES = 16  # the schedule writes the kernel anew for the target's vectors


def convert(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], params: Any, opset: int) -> Any:
    """A call of the suppression kernel; boxes float32 [R, K, 4] and valid bool [R, K] of known sizes."""
    boxes, valid = inputs
    num_rows, num_boxes, _ = (int(dim) for dim in boxes.ty.shape)
    func = suppression.on_cpu(num_rows, num_boxes, float(attributes["iou_threshold"]), LANES)
    return emit.call(builder, func, [boxes, valid])
