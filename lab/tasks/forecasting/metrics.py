"""Accuracy while training: the sums of `scoring` as a torchmetrics state, which adds up over processes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from lab.tasks.forecasting.scoring import figures, num_sums, window_sums


class Accuracy(Metric):
    """The figures of `scoring.figures` as scalars."""

    full_state_update = False
    is_differentiable = False
    higher_is_better = False

    def __init__(self, levels: Sequence[float]) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.add_state("sums", default=torch.zeros(num_sums(levels), dtype=torch.float64), dist_reduce_fx="sum")
        self.sums: Tensor

    def update(self, samples_BSP: Tensor, target_BP: Tensor, observed_BP: Tensor, seasonal_error_B: Tensor) -> None:
        target = torch.where(observed_BP > 0, target_BP.double(), torch.nan).cpu().numpy()
        error = seasonal_error_B.double().cpu().numpy()
        sums = window_sums(samples_BSP.cpu().numpy(), target, error, self.levels)
        self.sums += torch.from_numpy(sums).to(self.sums.device)

    def compute(self) -> dict[str, Tensor]:
        return {name: torch.tensor(value) for name, value in figures(self.sums.cpu().numpy(), self.levels).items()}
