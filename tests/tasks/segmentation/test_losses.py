"""Losses by hand, pixels that do not count, weights of classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from lab.core.errors import DataError
from lab.data.dataset import IGNORE
from lab.tasks.segmentation.config import LossConfig
from lab.tasks.segmentation.losses import (
    class_weights,
    cross_entropy,
    focal_loss,
    image_weights,
    jaccard_loss,
    pixel_loss,
)
from lab.tasks.segmentation.samples import weighted_order
from tests.tasks.segmentation.conftest import MakeTask


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, 4, (2, 5, 7), generator=generator)
    target[0, :2] = IGNORE
    return torch.randn(2, 4, 5, 7, generator=generator, requires_grad=True), target


def test_cross_entropy_is_torchs() -> None:
    scores, target = batch()
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0])
    torch.testing.assert_close(cross_entropy(scores, target), F.cross_entropy(scores, target, ignore_index=IGNORE))
    torch.testing.assert_close(
        cross_entropy(scores, target, weights), F.cross_entropy(scores, target, weights, ignore_index=IGNORE)
    )


def test_focal_loss_without_focus_is_cross_entropy() -> None:
    scores, target = batch()
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0])
    torch.testing.assert_close(focal_loss(scores, target, 0.0, weights), cross_entropy(scores, target, weights))
    probability = scores.softmax(1)[1, target[1, 0, 0], 0, 0]
    one = torch.full_like(target, IGNORE)
    one[1, 0, 0] = target[1, 0, 0]
    torch.testing.assert_close(focal_loss(scores, one, 2.0), -((1 - probability) ** 2) * probability.log())


def test_jaccard_loss_by_hand() -> None:
    target = torch.tensor([[[0, 0, 1, IGNORE]]])
    probabilities = torch.tensor([[[[0.8, 0.6, 0.4, 0.9]], [[0.2, 0.4, 0.6, 0.1]]]])
    expected = 1 - (1.4 / (1.8 + 2 - 1.4) + 0.6 / (1.2 + 1 - 0.6)) / 2
    torch.testing.assert_close(jaccard_loss(probabilities.log(), target), torch.tensor(expected))
    right = torch.tensor([[[[50.0, 50, 0, 0]], [[0.0, 0, 50, 0]], [[0.0, 0, 0, 50]]]])
    assert float(jaccard_loss(right, target)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("options", [{}, {"focal_gamma": 2.0}, {"jaccard_weight": 1.0}, {"label_smoothing": 0.1}])
def test_pixels_that_do_not_count_have_no_gradient(options: dict[str, Any]) -> None:
    scores, target = batch()
    config = LossConfig(**options)
    pixel_loss(scores, target, config, torch.ones(4)).backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None
    ignored = (target == IGNORE)[:, None].expand_as(scores)
    assert not scores.grad[ignored].any()
    assert scores.grad[~ignored].all()
    nothing = pixel_loss(scores, torch.full_like(target, IGNORE), config, None)
    assert torch.isfinite(nothing)


def test_class_weights_by_hand() -> None:
    counts = np.array([900, 90, 10, 0])
    inverse = class_weights(counts, LossConfig(class_weights="inverse_sqrt", max_class_weight=100))
    assert inverse is not None
    np.testing.assert_allclose(inverse[1] / inverse[0], np.sqrt(10), rtol=1e-5)
    assert inverse[3] == inverse[2] == inverse.max()
    np.testing.assert_allclose((inverse * counts).sum() / counts.sum(), 1, rtol=1e-5)
    median = class_weights(counts, LossConfig(class_weights="median_frequency", max_class_weight=3))
    assert median is not None
    assert median.max() == 3
    assert class_weights(counts, LossConfig()) is None
    with pytest.raises(DataError, match="pixels that count"):
        class_weights(np.zeros(3, int), LossConfig(class_weights="inverse_sqrt"))


def test_images_of_rare_classes_weigh_more() -> None:
    counts = np.array([[100, 0], [90, 10], [0, 100], [0, 0]])
    weights = image_weights(counts)
    share = np.array([190, 110]) / 300
    expected = counts @ (share**-0.5 / (share**0.5).sum()) / 100
    np.testing.assert_allclose(weights[:3], expected[:3])
    assert weights[0] < weights[1] < weights[2]
    assert 0 < weights[3] < weights[0]


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=40), st.integers(0, 5), st.integers(1, 4), st.integers(1, 3))
def test_images_are_drawn_in_proportion_to_their_weights(
    weights: list[float], epoch: int, num_ranks: int, views: int
) -> None:
    values, num_draws = np.array(weights), len(weights) * views
    order = weighted_order(values, num_draws, 7, epoch)
    wanted = num_draws * values / values.sum()
    assert (np.abs(np.bincount(order % len(values), minlength=len(values)) - wanted) < 1 + 1e-9).all()
    assert len(set(order)) == num_draws  # the same image is another view of it
    np.testing.assert_array_equal(order, weighted_order(values, num_draws, 7, epoch))
    parts = [weighted_order(values, num_draws, 7, epoch, rank, num_ranks) for rank in range(num_ranks)]
    assert len({len(part) for part in parts}) == 1
    assert sum(map(len, parts)) == num_draws - num_draws % num_ranks


def test_a_task_counts_its_training_pixels_once(make_task: MakeTask) -> None:
    task = make_task(loss={"class_weights": "inverse_sqrt"})
    weights = task._class_weights
    assert weights is not None
    assert weights[0] < weights[1]  # there is more ground than anything else
    assert task._class_weights is weights
