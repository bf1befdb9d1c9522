"""The loss: equal to torchvision's, gradients of what counts and of nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

from lab.tasks.detection.boxes import to_corners
from lab.tasks.detection.loss import multibox_loss, targets_of
from tests.tasks.detection.test_boxes import defaults_300, random_boxes

NUM_CLASSES = 5


class _Theirs(SSD):  # type: ignore[misc]
    """torchvision's compute_loss and matcher without a network."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        from torchvision.models.detection._utils import BoxCoder, SSDMatcher

        self.box_coder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
        self.proposal_matcher = SSDMatcher(0.5)
        self.neg_to_pos_ratio = 3.0


def expected_losses(codes: Any, logits: Any, boxes: list[Any], classes: list[Any], corners: Any) -> dict[str, Any]:
    theirs, matches = _Theirs(), []
    for found in boxes:
        empty = torch.full((len(corners),), -1, dtype=torch.int64)
        matches.append(theirs.proposal_matcher(box_iou(found, corners)) if len(found) else empty)
    targets = [{"boxes": b, "labels": c + 1} for b, c in zip(boxes, classes, strict=True)]
    outputs = {"bbox_regression": codes, "cls_logits": logits}
    losses: dict[str, Any] = theirs.compute_loss(targets, outputs, [corners] * len(boxes), matches)
    return losses


@pytest.mark.parametrize("counts", [(3, 1), (0, 2), (7, 4)])
def test_equals_torchvisions(counts: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(counts))
    defaults = defaults_300()
    boxes = [random_boxes(rng, count) * 0.9 + torch.tensor([0, 0, 0.1, 0.1]) for count in counts]
    classes = [torch.from_numpy(rng.integers(0, NUM_CLASSES - 1, count)) for count in counts]
    codes = torch.from_numpy(rng.normal(size=(2, 8732, 4)).astype(np.float32)).requires_grad_()
    logits = torch.from_numpy(rng.normal(size=(2, 8732, NUM_CLASSES)).astype(np.float32)).requires_grad_()
    expected = expected_losses(codes, logits, boxes, classes, to_corners(defaults))
    expected_gradients = torch.autograd.grad(sum(expected.values()), (codes, logits))

    places = max(counts) + 2
    boxes_BM4, classes_BM = torch.zeros(2, places, 4), torch.full((2, places), -1)
    for row in range(2):
        boxes_BM4[row, : counts[row]], classes_BM[row, : counts[row]] = boxes[row], classes[row]
    ignore_BM = torch.zeros(2, places, dtype=torch.bool)
    targets = targets_of(boxes_BM4, classes_BM, ignore_BM, defaults, 0.5)
    found = multibox_loss(codes, logits, targets, 3.0)
    torch.testing.assert_close(found["smooth_l1"], expected["bbox_regression"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found["cross_entropy"], expected["classification"], atol=1e-5, rtol=1e-5)
    gradients = torch.autograd.grad(sum(found.values()), (codes, logits))
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_nothing_to_find_costs_nothing_and_is_finite() -> None:
    defaults, codes = defaults_300(), torch.zeros(2, 8732, 4, requires_grad=True)
    logits = torch.zeros(2, 8732, 3, requires_grad=True)
    for places in (0, 3):
        ignore = torch.zeros(2, places, dtype=torch.bool)
        targets = targets_of(torch.zeros(2, places, 4), torch.full((2, places), -1), ignore, defaults, 0.5)
        losses = multibox_loss(codes, logits, targets, 3.0)
        assert {name: value.item() for name, value in losses.items()} == {"cross_entropy": 0.0, "smooth_l1": 0.0}
        sum(losses.values()).backward()  # type: ignore[union-attr]
        assert codes.grad is not None
        assert bool(torch.isfinite(codes.grad).all())


def test_ignored_objects_are_neither_found_nor_background() -> None:
    defaults = defaults_300()
    boxes = torch.tensor([[[0.1, 0.1, 0.4, 0.4], [0.5, 0.5, 0.9, 0.9]]])
    classes = torch.tensor([[0, 1]])
    targets = targets_of(boxes, classes, torch.tensor([[False, True]]), defaults, 0.5)
    assert targets.classes_BA.unique().tolist() == [0, 1]
    logits = torch.zeros(1, 8732, 3)
    logits[targets.left_out_BA] = torch.tensor([-50.0, 0.0, 50.0])  # certain of the ignored object
    losses = multibox_loss(torch.zeros(1, 8732, 4), logits, targets, 3.0)
    assert float(losses["cross_entropy"]) == pytest.approx(4 * np.log(3), rel=1e-4)
