"""Boxes in numpy: overlap, suppression outside of the graph, and pairing of two models' detections.

Shape letters: A boxes before suppression, K classes, M and N boxes, 4 corner coordinates.
"""

from __future__ import annotations

import numpy as np


def iou(boxes_M4: np.ndarray, others_N4: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair [M, N]; 0 / 0 is 0."""
    a, b = boxes_M4[:, None], others_N4[None]
    shared = np.prod(np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None), axis=-1)
    joined = np.prod(a[..., 2:] - a[..., :2], axis=-1) + np.prod(b[..., 2:] - b[..., :2], axis=-1) - shared
    overlap_MN: np.ndarray = np.divide(shared, joined, out=np.zeros_like(shared), where=joined > 0)
    return overlap_MN


def keep_indices(boxes_N4: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Greedy non-maximum suppression of boxes sorted by descending score: indices of those that stay, in order."""
    too_close_NN = iou(boxes_N4, boxes_N4) > iou_threshold
    alive_N = np.ones(len(boxes_N4), bool)
    for index in range(len(boxes_N4)):
        if alive_N[index]:
            alive_N[index + 1 :] &= ~too_close_NN[index, index + 1 :]
    return np.flatnonzero(alive_N)


def suppress(
    boxes_A4: np.ndarray,
    scores_AK: np.ndarray,
    *,
    nms_threshold: float,
    score_threshold: float,
    candidates: int,
    max_detections: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(boxes [N, 4], scores [N], classes [N]) of one image, most certain first: what the graph does with nms: graph."""
    boxes, scores, classes = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.float32)], [np.zeros(0, np.int64)]
    for index in range(scores_AK.shape[1]):
        score_A = scores_AK[:, index]
        order = np.argsort(-score_A, kind="stable")[:candidates]
        order = order[score_A[order] > score_threshold]
        order = order[keep_indices(boxes_A4[order], nms_threshold)]
        boxes.append(boxes_A4[order])
        scores.append(score_A[order])
        classes.append(np.full(len(order), index, np.int64))
    boxes_N4, scores_N, classes_N = np.concatenate(boxes), np.concatenate(scores), np.concatenate(classes)
    best = np.argsort(-scores_N, kind="stable")[:max_detections]
    return boxes_N4[best], scores_N[best], classes_N[best]


def pairs(
    boxes_M4: np.ndarray, classes_M: np.ndarray, others_N4: np.ndarray, classes_N: np.ndarray, least_iou: float
) -> tuple[np.ndarray, np.ndarray]:
    """Indices (m, n) of boxes of one class that belong together: each other's closest, by more than `least_iou`.

    Boxes without area overlap with nothing, so equal corners (to 1e-5) count as an overlap of 1 too.
    """
    if not len(boxes_M4) or not len(others_N4):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    close_MN = iou(boxes_M4, others_N4)
    same_MN = np.abs(boxes_M4[:, None] - others_N4[None]).max(axis=-1) <= 1e-5
    close_MN = np.where(classes_M[:, None] == classes_N[None], np.maximum(close_MN, same_MN), 0.0)
    best_M, best_N = close_MN.argmax(axis=1), close_MN.argmax(axis=0)
    index_M = np.arange(len(boxes_M4))
    mutual_M = (best_N[best_M] == index_M) & (close_MN[index_M, best_M] > least_iou)
    return index_M[mutual_M], best_M[mutual_M]
