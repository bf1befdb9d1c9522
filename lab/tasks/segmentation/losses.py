"""Pixel-wise losses that skip pixels of class 255. B batch, K classes, H height, W width."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lab.core.errors import DataError
from lab.data.dataset import IGNORE, ImageDataset
from lab.tasks.segmentation.config import LossConfig


def pixel_loss(scores_BKHW: Tensor, target_BHW: Tensor, options: LossConfig, weights_K: Tensor | None) -> Tensor:
    """The configured training loss, a scalar; 0 where no pixel counts (torch's would be NaN). Targets are int64."""
    if options.focal_gamma > 0:
        loss = focal_loss(scores_BKHW, target_BHW, options.focal_gamma, weights_K)
    else:
        loss = cross_entropy(scores_BKHW, target_BHW, weights_K, options.label_smoothing)
    if options.jaccard_weight > 0:
        loss = loss + options.jaccard_weight * jaccard_loss(scores_BKHW, target_BHW)
    return loss


def cross_entropy(
    scores_BKHW: Tensor, target_BHW: Tensor, weights_K: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Weighted mean over the pixels that count."""
    total = F.cross_entropy(
        scores_BKHW, target_BHW, weights_K, ignore_index=IGNORE, reduction="sum", label_smoothing=label_smoothing
    )
    return total / _weight_sum(target_BHW, weights_K)


def focal_loss(scores_BKHW: Tensor, target_BHW: Tensor, gamma: float, weights_K: Tensor | None = None) -> Tensor:
    """Cross entropy times (1 - p) ** gamma (Lin et al. 2017, equation 4), weighted mean over the pixels that count."""
    entropy_BHW = F.cross_entropy(scores_BKHW, target_BHW, ignore_index=IGNORE, reduction="none")
    modulated = (1 - torch.exp(-entropy_BHW)).clamp_min(0) ** gamma * entropy_BHW
    if weights_K is not None:
        modulated = modulated * _weight_of(target_BHW, weights_K)
    return modulated.sum() / _weight_sum(target_BHW, weights_K)


def jaccard_loss(scores_BKHW: Tensor, target_BHW: Tensor) -> Tensor:
    """1 - soft intersection over soft union, mean over the classes that occur in the batch's targets.

    Source: Rahman and Wang 2016, "Optimizing Intersection-Over-Union in Deep Neural Networks", equation 5, per class.
    """
    num_classes = scores_BKHW.shape[1]
    counted_BHW = target_BHW != IGNORE
    probabilities = scores_BKHW.softmax(dim=1) * counted_BHW[:, None]
    index_BHW = target_BHW.masked_fill(~counted_BHW, 0)
    hits_BHW = probabilities.gather(1, index_BHW[:, None]).squeeze(1)
    flat = index_BHW.flatten()
    intersection_K = hits_BHW.new_zeros(num_classes).index_add(0, flat, hits_BHW.flatten())
    true_K = hits_BHW.new_zeros(num_classes).index_add(0, flat, counted_BHW.flatten().to(hits_BHW))
    union_K = probabilities.sum(dim=(0, 2, 3)) + true_K - intersection_K
    present_K = true_K > 0
    iou_K = torch.where(present_K, intersection_K / union_K.clamp_min(1e-6), 0.0)
    return 1 - iou_K.sum() / present_K.sum().clamp_min(1)


def _weight_of(target_BHW: Tensor, weights_K: Tensor) -> Tensor:
    counted_BHW = target_BHW != IGNORE
    return weights_K[target_BHW.masked_fill(~counted_BHW, 0)] * counted_BHW


def _weight_sum(target_BHW: Tensor, weights_K: Tensor | None) -> Tensor:
    if weights_K is None:
        return (target_BHW != IGNORE).sum().clamp_min(1)
    return _weight_of(target_BHW, weights_K).sum().clamp_min(1e-6)


def pixel_counts(dataset: ImageDataset) -> np.ndarray:
    """Int64 [N, K]: pixels of each class in each mask of a data set. Raises DataError: a class out of range."""
    num_classes = len(dataset.labels)
    counts = np.zeros((len(dataset), 256), np.int64)
    for index, row in enumerate(counts):
        mask_HW = dataset.annotation(index)
        assert isinstance(mask_HW, np.ndarray)
        row[:] = np.bincount(mask_HW.ravel(), minlength=256)
    if counts[:, num_classes:IGNORE].any():
        raise DataError(f"{dataset.source} has masks with a class out of range", expected=f"0..{num_classes - 1}, 255")
    return counts[:, :num_classes]


def class_weights(counts_K: np.ndarray, options: LossConfig) -> np.ndarray | None:
    """Float32 [K] by `loss.class_weights`, with a mean of 1 over the pixels; absent classes get the largest weight."""
    if options.class_weights == "none":
        return None
    # Eigen and Fergus's median of all shares is a constant factor, which the scaling takes out again.
    weights_K = rarity(counts_K, 0.5 if options.class_weights == "inverse_sqrt" else 1.0)
    clipped: np.ndarray = np.minimum(weights_K, options.max_class_weight).astype(np.float32)
    return clipped


def rarity(counts_K: np.ndarray, power: float = 0.5) -> np.ndarray:
    """Float64 [K]: 1 / share ** power, scaled to a mean of 1 over all pixels; absent classes as the rarest one."""
    if not counts_K.any():
        raise DataError("class weights need masks with pixels that count", got="none")
    weights_K = (1 / np.maximum(counts_K, counts_K[counts_K > 0].min())) ** power
    scaled_K: np.ndarray = weights_K / (weights_K * counts_K).sum() * counts_K.sum()
    return scaled_K


def image_weights(counts_NK: np.ndarray) -> np.ndarray:
    """Float64 [N]: mean rarity of the pixels of each image; what `augment.sampling: rare_classes` draws by."""
    totals_N = counts_NK.sum(axis=1)
    weights_N: np.ndarray = counts_NK @ rarity(counts_NK.sum(axis=0)) / np.maximum(totals_N, 1)
    positive_N: np.ndarray = np.maximum(weights_N, 1e-3)
    return positive_N
