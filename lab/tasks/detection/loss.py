"""SSD's loss: cross entropy with hard negative mining, and smooth L1 (Liu et al. 2016, section 2.2).

Shape letters: A default boxes, B batch, K classes with the background as class 0, M objects of an image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lab.tasks.detection.boxes import encode, match, to_corners


@dataclass(frozen=True)
class Targets:
    """`classes_BA`: 0 background, else class + 1; `left_out_BA`: takes no part; `codes_BA4`: where classes_BA > 0."""

    classes_BA: Tensor
    left_out_BA: Tensor
    codes_BA4: Tensor


def targets_of(
    boxes_BM4: Tensor, classes_BM: Tensor, ignore_BM: Tensor, defaults_A4: Tensor, match_iou: float
) -> Targets:
    """What every default box (centre and size) should predict; `classes_BM` is -1 where there is no object."""
    there_BM = classes_BM >= 0
    corners_A4 = to_corners(defaults_A4)
    index_BA, left_out_BA = match(boxes_BM4, there_BM & ~ignore_BM, there_BM & ignore_BM, corners_A4, match_iou)
    if boxes_BM4.shape[1] == 0:
        return Targets(torch.zeros_like(index_BA), left_out_BA, corners_A4.expand(*index_BA.shape, 4))
    found_BA, is_object_BA = index_BA.clamp(min=0), index_BA >= 0
    classes_BA = torch.where(is_object_BA, classes_BM.gather(1, found_BA) + 1, 0)
    chosen_BA4 = boxes_BM4.gather(1, found_BA.unsqueeze(-1).expand(-1, -1, 4))
    # The logarithm of an absent object's size would be -inf, and the gradient of inf * 0 is nan.
    chosen_BA4 = torch.where(is_object_BA.unsqueeze(-1), chosen_BA4, corners_A4)
    return Targets(classes_BA, left_out_BA, encode(chosen_BA4, defaults_A4))


def multibox_loss(
    codes_BA4: Tensor, logits_BAK: Tensor, targets: Targets, negatives_per_positive: float
) -> dict[str, Tensor]:
    """{"cross_entropy", "smooth_l1"}: sums over all images, per matched default box of the batch.

    In each image only the background boxes with the largest loss count, `negatives_per_positive` times as many as
    objects' boxes.
    """
    is_object_BA = targets.classes_BA > 0
    num_objects = is_object_BA.sum().clamp(min=1)
    distance_BA4 = F.smooth_l1_loss(codes_BA4, targets.codes_BA4, reduction="none")
    smooth_l1 = (distance_BA4 * is_object_BA.unsqueeze(-1)).sum()
    losses_BA = F.cross_entropy(logits_BAK.flatten(0, 1), targets.classes_BA.flatten(), reduction="none")
    losses_BA = losses_BA.view_as(targets.classes_BA)
    # -1 sorts behind every loss, and the mask below never reaches it.
    is_background_BA = ~is_object_BA & ~targets.left_out_BA
    background_BA = torch.where(is_background_BA, losses_BA, -1.0).sort(dim=1, descending=True).values
    num_negatives_B1 = negatives_per_positive * is_object_BA.sum(dim=1, keepdim=True)
    num_negatives_B1 = torch.minimum(num_negatives_B1, is_background_BA.sum(dim=1, keepdim=True))
    rank_A = torch.arange(losses_BA.shape[1], device=losses_BA.device)
    hardest = torch.where(rank_A < num_negatives_B1, background_BA, 0.0).sum()
    cross_entropy = torch.where(is_object_BA, losses_BA, 0.0).sum() + hardest
    return {"cross_entropy": cross_entropy / num_objects, "smooth_l1": smooth_l1 / num_objects}
