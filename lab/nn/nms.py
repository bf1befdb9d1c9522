"""Greedy non-maximum suppression over many independent rows, which trains, exports and compiles.

Shapes: R rows (one per image and class), K boxes of a row, sorted by descending score.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lab.core.errors import DataError
from lab.nn.onnx_functions import DOMAIN, VERSION, OnnxFunction

ROUNDS_PER_CHECK = 4  # asking the GPU whether it is done costs as much as a few rounds


def keep_mask(boxes_RK4: Tensor, valid_RK: Tensor, iou_threshold: float) -> Tensor:
    """Which boxes greedy suppression keeps, bool [R, K]; equal to `torchvision.ops.nms` on the valid boxes of each row.

    A box is suppressed by an earlier box of its row that is kept and overlaps it by more than `iou_threshold`.

    Args:
        boxes_RK4: corners x1, y1, x2, y2, float, each row sorted by descending score.
        valid_RK: boxes that take part, bool; the others neither suppress nor are kept.

    Raises:
        DataError: shapes or types are not these.
    """
    if boxes_RK4.ndim != 3 or boxes_RK4.shape[-1] != 4 or valid_RK.shape != boxes_RK4.shape[:2]:
        raise DataError(
            "nms takes boxes [R, K, 4] and a mask [R, K]", got=f"{list(boxes_RK4.shape)} and {list(valid_RK.shape)}"
        )
    if not boxes_RK4.is_floating_point() or valid_RK.dtype != torch.bool:
        raise DataError("nms takes float boxes and a bool mask", got=f"{boxes_RK4.dtype} and {valid_RK.dtype}")
    keep_RK: Tensor = _nms_keep(boxes_RK4, valid_RK, float32_below(iou_threshold))
    return keep_RK


def float32_below(value: float) -> float:
    """The largest float32 that is at most `value`: a float32 is above the one exactly when it is above the other."""
    rounded = np.float32(value)
    return float(rounded if float(rounded) <= value else np.nextafter(rounded, np.float32(-np.inf)))


@torch.library.custom_op("lab::nms_keep", mutates_args=())
def _nms_keep(boxes_RK4: Tensor, valid_RK: Tensor, iou_threshold: float) -> Tensor:
    boxes_RK4 = boxes_RK4.float()
    if boxes_RK4.is_cuda:
        return _fixpoint(_overlaps(boxes_RK4, iou_threshold), valid_RK)
    return _row_by_row(boxes_RK4, valid_RK, iou_threshold)


@_nms_keep.register_fake
def _(boxes_RK4: Tensor, valid_RK: Tensor, iou_threshold: float) -> Tensor:
    return torch.empty_like(valid_RK)


def _row_by_row(boxes_RK4: Tensor, valid_RK: Tensor, iou_threshold: float) -> Tensor:
    """On a CPU torchvision's kernel, which stops early, is five to ten times as fast as `_fixpoint`."""
    from torchvision.ops import nms

    keep_RK = torch.zeros_like(valid_RK)
    order_K = torch.arange(valid_RK.shape[1], 0, -1, dtype=torch.float32)
    for keep_K, boxes_K4, valid_K in zip(keep_RK, boxes_RK4, valid_RK, strict=True):
        (taking_part,) = valid_K.nonzero(as_tuple=True)
        keep_K[taking_part[nms(boxes_K4[taking_part], order_K[taking_part], iou_threshold)]] = True
    return keep_RK


def _overlaps(boxes_RK4: Tensor, iou_threshold: float) -> Tensor:
    """[r, j, i] = 1.0 where the earlier box i overlaps box j by more than the threshold, else 0.0.

    The same roundings as torchvision's kernel: the quotient itself is compared, so 0 / 0 is no overlap.
    """
    x1, y1, x2, y2 = boxes_RK4.unsqueeze(2).unbind(-1)  # each [R, K, 1]
    area = (x2 - x1) * (y2 - y1)
    width = (torch.minimum(x2, x2.mT) - torch.maximum(x1, x1.mT)).clamp_(min=0)
    height = (torch.minimum(y2, y2.mT) - torch.maximum(y1, y1.mT)).clamp_(min=0)
    shared = width * height
    return (shared / (area + area.mT - shared) > iou_threshold).float().tril_(-1)


def _fixpoint(suppresses_RKK: Tensor, valid_RK: Tensor) -> Tensor:
    """The only `keep` with keep_j = valid_j and no kept i < j that suppresses j.

    After n rounds the first n boxes of every row are final, so K rounds always do; a chain of suppressions as long as
    the row is what it takes to need them all.
    """
    keep_RK = valid_RK
    for _ in range(0, valid_RK.shape[1], ROUNDS_PER_CHECK):
        before_RK = keep_RK
        for _ in range(ROUNDS_PER_CHECK):
            num_suppressors_RK1 = suppresses_RKK @ keep_RK.to(suppresses_RKK.dtype).unsqueeze(-1)
            before_RK, keep_RK = keep_RK, valid_RK & (num_suppressors_RK1.squeeze(-1) < 0.5)
        if torch.equal(before_RK, keep_RK):
            break
    return keep_RK.clone() if keep_RK is valid_RK else keep_RK


def _schema() -> Any:
    from onnx.defs import OpSchema

    parameter = OpSchema.FormalParameter
    return OpSchema(
        "NmsKeep", DOMAIN, VERSION, doc=keep_mask.__doc__ or "",
        inputs=[parameter("boxes", "tensor(float)"), parameter("valid", "tensor(bool)")],
        outputs=[parameter("keep", "tensor(bool)")],
        attributes=[OpSchema.Attribute("iou_threshold", OpSchema.AttrType.FLOAT, "", required=True)],
    )  # fmt: skip


def _call(node: Any, boxes: Any, valid: Any, iou_threshold: float) -> Any:
    return node(boxes, valid, iou_threshold=iou_threshold)


BODY = """
<domain: "lab", opset_import: ["" : {opset}]>
NmsKeep <iou_threshold> (boxes, valid) => (keep)
{{
    x1, y1, x2, y2 = Split <axis = 2, num_outputs = 4> (boxes)
    x1T = Transpose <perm = [0, 2, 1]> (x1)
    y1T = Transpose <perm = [0, 2, 1]> (y1)
    x2T = Transpose <perm = [0, 2, 1]> (x2)
    y2T = Transpose <perm = [0, 2, 1]> (y2)
    zero = Constant <value_float = 0.0> ()
    right = Min (x2, x2T)
    left = Max (x1, x1T)
    across = Sub (right, left)
    width = Max (across, zero)
    bottom = Min (y2, y2T)
    top = Max (y1, y1T)
    down = Sub (bottom, top)
    height = Max (down, zero)
    shared = Mul (width, height)
    box_width = Sub (x2, x1)
    box_height = Sub (y2, y1)
    area = Mul (box_width, box_height)
    areaT = Transpose <perm = [0, 2, 1]> (area)
    both = Add (area, areaT)
    joined = Sub (both, shared)
    iou = Div (shared, joined)
    threshold = Constant <value_float: float = @iou_threshold> ()
    over = Greater (iou, threshold)
    over_float = Cast <to = 1> (over)
    diagonal = Constant <value_int = -1> ()
    suppresses = Trilu <upper = 0> (over_float, diagonal)
    shape = Shape (valid)
    one_axis = Constant <value_ints = [1]> ()
    num_boxes = Gather (shape, one_axis)
    scalar = Constant <value_ints = [-1]> ()
    last_axis = Constant <value_ints = [2]> ()
    half = Constant <value_float = 0.5> ()
    start = Constant <value = bool {{1}}> ()
    final = Loop (num_boxes, start, valid) <body = round (int64 step, bool going_on, kept) => (bool changed, next)
    {{
        kept_float = Cast <to = 1> (kept)
        kept_column = Unsqueeze (kept_float, last_axis)
        num_column = MatMul (suppresses, kept_column)
        num_suppressors = Squeeze (num_column, last_axis)
        free = Less (num_suppressors, half)
        next = And (valid, free)
        differs = Xor (next, kept)
        differs_float = Cast <to = 1> (differs)
        num_different = ReduceSum <keepdims = 0> (differs_float)
        changed = Greater (num_different, zero)
    }}>
    keep = Reshape (final, shape)
}}
"""


def _body(opset: int) -> Any:
    import onnx.parser

    return onnx.parser.parse_function(BODY.format(opset=opset))


NMS_KEEP = OnnxFunction("NmsKeep", torch.ops.lab.nms_keep.default, _schema, _call, _body)
