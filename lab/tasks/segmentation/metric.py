"""The confusion matrix of pixels as a torchmetrics metric. K classes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from lab.data.dataset import IGNORE
from lab.tasks.segmentation.scores import scores_of


class PixelConfusion(Metric):
    """Counts [true, predicted], summed over batches and processes; computes `scores_of` of the counts."""

    full_state_update = False
    higher_is_better = True
    matrix_KK: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.add_state("matrix_KK", counts, dist_reduce_fx="sum")

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Class indices of equal shape, any integer type; where `truth` is 255 nothing is counted."""
        counted = truth != IGNORE
        index = truth[counted].long() * self.num_classes + predicted[counted].long()
        self.matrix_KK += torch.bincount(index, minlength=self.num_classes**2).view_as(self.matrix_KK)

    def compute(self) -> dict[str, Tensor]:
        """{"miou", "pixel_accuracy", "mean_class_accuracy"}, float64 scalars."""
        return {
            name: torch.tensor(value, dtype=torch.float64)
            for name, value in scores_of(self.matrix_KK.cpu().numpy()).items()
        }
