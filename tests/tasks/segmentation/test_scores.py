"""Scores from confusion matrices: by hand, and merging batches changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchmetrics.segmentation import MeanIoU

from lab.data.dataset import IGNORE
from lab.tasks.segmentation.metric import PixelConfusion
from lab.tasks.segmentation.scores import class_iou, class_recall, confusion_matrix, scores_of

NUM = 4
masks = arrays(
    np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 1, 2, 3, IGNORE])
)


def test_by_hand() -> None:
    truth = np.array([[0, 0, 1], [1, 1, IGNORE]], np.uint8)
    predicted = np.array([[0, 1, 1], [1, 0, 2]], np.uint8)
    matrix = confusion_matrix(predicted, truth, 3)
    assert matrix.tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]
    np.testing.assert_allclose(class_iou(matrix), [1 / 3, 2 / 4, np.nan])
    np.testing.assert_allclose(class_recall(matrix), [1 / 2, 2 / 3, np.nan])
    expected = {"miou": (1 / 3 + 1 / 2) / 2, "pixel_accuracy": 3 / 5, "mean_class_accuracy": (1 / 2 + 2 / 3) / 2}
    assert scores_of(matrix) == pytest.approx(expected)


def test_a_class_only_predicted_counts_as_missed() -> None:
    matrix = np.array([[5, 5], [0, 0]])
    assert scores_of(matrix)["miou"] == pytest.approx((0.5 + 0.0) / 2)
    assert scores_of(matrix)["mean_class_accuracy"] == pytest.approx(0.5)


def test_no_pixels_score_nothing() -> None:
    assert set(scores_of(np.zeros((3, 3), int)).values()) == {0.0}


@settings(max_examples=60, deadline=None)
@given(st.lists(masks, min_size=1, max_size=5), st.integers(0, 2**32 - 1))
def test_miou_of_merged_matrices_is_that_of_all_pixels(truths: list[np.ndarray], seed: int) -> None:
    rng = np.random.default_rng(seed)
    predictions = [rng.integers(0, NUM, truth.shape).astype(np.uint8) for truth in truths]
    merged = sum(
        (confusion_matrix(p, t, NUM) for p, t in zip(predictions, truths, strict=True)), np.zeros((NUM, NUM), int)
    )
    together = confusion_matrix(
        np.concatenate([p.ravel() for p in predictions]), np.concatenate([t.ravel() for t in truths]), NUM
    )
    np.testing.assert_array_equal(merged, together)
    assert scores_of(merged) == scores_of(together)
    metric, other = PixelConfusion(NUM), PixelConfusion(NUM)
    for index, (predicted, truth) in enumerate(zip(predictions, truths, strict=True)):
        (other if index % 2 else metric).update(torch.from_numpy(predicted), torch.from_numpy(truth))
    metric.merge_state(other)
    assert {name: float(value) for name, value in metric.compute().items()} == scores_of(together)


@settings(max_examples=30, deadline=None)
@given(masks, st.integers(0, 99))
def test_scores_lie_between_nothing_and_all(truth: np.ndarray, seed: int) -> None:
    predicted = np.random.default_rng(seed).integers(0, NUM, truth.shape).astype(np.uint8)
    assert all(0 <= value <= 1 for value in scores_of(confusion_matrix(predicted, truth, NUM)).values())
    if (truth != IGNORE).any():
        assert set(scores_of(confusion_matrix(np.minimum(truth, NUM - 1), truth, NUM)).values()) == {1.0}


def test_agrees_with_torchmetrics_where_every_class_occurs() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, NUM, (2, 40, 50))
    metric = MeanIoU(NUM, input_format="index", per_class=False)
    expected = float(metric(torch.from_numpy(predicted)[None], torch.from_numpy(truth)[None]))
    assert scores_of(confusion_matrix(predicted, truth, NUM))["miou"] == pytest.approx(expected, abs=1e-6)
