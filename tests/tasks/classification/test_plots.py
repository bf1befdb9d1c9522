"""The numbers behind the pictures."""

from __future__ import annotations

import numpy as np

from lab.tasks.classification.plots import (
    class_mistakes,
    confusion_matrix,
    label_accuracy,
    label_mistakes,
    recall_by_class,
)


def test_confusion_matrix_and_recall() -> None:
    matrix = confusion_matrix(np.array([0, 1, 1, 2, 0]), np.array([0, 1, 0, 1, 0]), 4)
    assert matrix.tolist() == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(recall_by_class(matrix), [2 / 3, 1 / 2, np.nan, np.nan])


def test_mistakes_are_ordered_by_confidence() -> None:
    logits = np.log(np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]], np.float32))
    order, true, predicted, probability = class_mistakes(logits, np.array([0, 1, 0, 0]))
    assert (order.tolist(), true.tolist(), predicted.tolist()) == ([2, 3, 1], [0, 0, 1], [1, 1, 0])
    np.testing.assert_allclose(probability, [0.8, 0.7, 0.6], rtol=1e-5)


def test_label_mistakes_are_the_worst_label_of_each_image() -> None:
    logits = np.array([[2.0, -1.0], [-3.0, 1.0], [1.0, -1.0]], np.float32)
    targets = np.array([[0, 0], [1, 1], [1, 0]], np.float32)
    order, true, predicted, probability = label_mistakes(logits, targets)
    assert (order.tolist(), true.tolist(), predicted.tolist()) == ([1, 0], [0, -1], [-1, 0])
    np.testing.assert_allclose(probability, [1 / (1 + np.exp(-3)), 1 / (1 + np.exp(-2))], rtol=1e-5)
    np.testing.assert_allclose(label_accuracy(logits, targets), [1 / 3, 1])
