"""Average precision while training: the states live on the device and are gathered by torchmetrics; `scoring` computes.

torchmetrics' own MeanAveragePrecision keeps a list of tensors per image, which processes with unequal numbers of images
cannot gather. Shape letters: B batch, D detections, M places for objects.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from lab.data.dataset import Boxes
from lab.tasks.detection.responses import Detections
from lab.tasks.detection.scoring import Scorer


class BoxPrecision(Metric):
    """The scalars of `scoring.Scorer.compute` as tensors, over all processes."""

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    def __init__(self, labels: tuple[str, ...], max_objects: int, overlap_threshold: float) -> None:
        super().__init__()
        self.class_names, self.max_objects, self.overlap_threshold = labels, max_objects, overlap_threshold
        for name in ("found", "truth", "size"):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self.found: Any
        self.truth: Any
        self.size: Any

    def update(
        self, found_BD6: Tensor, boxes_BM4: Tensor, classes_BM: Tensor, ignore_BM: Tensor, size_B2: Tensor
    ) -> None:
        """`found_BD6`: corners, score, class (-1: none). All boxes as shares of the image, `size_B2` in pixels."""
        truth_BM6 = torch.cat((boxes_BM4, classes_BM.unsqueeze(-1), ignore_BM.unsqueeze(-1)), dim=-1)
        missing = self.max_objects - truth_BM6.shape[1]
        self.found.append(found_BD6.float())
        self.truth.append(F.pad(truth_BM6.float(), (0, 0, 0, missing), value=-1.0))
        self.size.append(size_B2)

    def scorer(self) -> Scorer:
        """Everything given so far."""
        scorer = Scorer(self.class_names, {}, self.overlap_threshold)
        found, truth, size = (dim_zero_cat(state).cpu().numpy() for state in (self.found, self.truth, self.size))
        for found_D6, truth_M6, (height, width) in zip(found, truth, size.tolist(), strict=True):
            pixels = torch.tensor([width, height, width, height], dtype=torch.float32).numpy()
            found_D6, truth_M6 = found_D6[found_D6[:, 5] >= 0], truth_M6[truth_M6[:, 4] >= 0]
            classes_D = found_D6[:, 5].astype("int64")
            scorer.add(
                Detections(found_D6[:, :4] * pixels, found_D6[:, 4], classes_D, height, width),
                Boxes.of(truth_M6[:, :4] * pixels, truth_M6[:, 4], truth_M6[:, 5]),
            )
        return scorer

    def compute(self) -> dict[str, Tensor]:
        return {name: torch.tensor(value) for name, value in self.scorer().compute().items()}
