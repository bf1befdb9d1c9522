"""Scores from a confusion matrix of pixels. K classes; rows are the truth, columns the prediction."""

from __future__ import annotations

import numpy as np

from lab.data.dataset import IGNORE


def confusion_matrix(predicted_HW: np.ndarray, truth_HW: np.ndarray, num_classes: int) -> np.ndarray:
    """Int64 [K, K] counts [true, predicted] of the pixels that count (truth not 255)."""
    counted = truth_HW != IGNORE
    index = truth_HW[counted].astype(np.int64) * num_classes + predicted_HW[counted]
    matrix_KK: np.ndarray = np.bincount(index, minlength=num_classes**2).reshape(num_classes, num_classes)
    return matrix_KK


def class_iou(matrix_KK: np.ndarray) -> np.ndarray:
    """Intersection over union of each class, float64 [K]; NaN for a class in neither truth nor prediction."""
    hits = matrix_KK.diagonal().astype(np.float64)
    union = matrix_KK.sum(axis=0) + matrix_KK.sum(axis=1) - hits
    iou_K: np.ndarray = np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)
    return iou_K


def class_recall(matrix_KK: np.ndarray) -> np.ndarray:
    """Share of each true class's pixels that were found, float64 [K]; NaN for a class without pixels."""
    hits, totals = matrix_KK.diagonal().astype(np.float64), matrix_KK.sum(axis=1)
    recall_K: np.ndarray = np.divide(hits, totals, out=np.full(len(hits), np.nan), where=totals > 0)
    return recall_K


def scores_of(matrix_KK: np.ndarray) -> dict[str, float]:
    """{"miou", "pixel_accuracy", "mean_class_accuracy"}, as fractions over all counted pixels; 0 without any.

    Classes in neither truth nor prediction are left out of the means, as in Pascal VOC's own evaluation. torchvision's
    reference divides 0 by 0 for them and reports NaN; where every class occurs the figures are equal.
    """
    total = int(matrix_KK.sum())
    if total == 0:
        return {"miou": 0.0, "pixel_accuracy": 0.0, "mean_class_accuracy": 0.0}
    return {
        "miou": float(np.nanmean(class_iou(matrix_KK))),
        "pixel_accuracy": float(matrix_KK.diagonal().sum() / total),
        "mean_class_accuracy": float(np.nanmean(class_recall(matrix_KK))),
    }
