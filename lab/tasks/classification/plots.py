"""Pictures of a classifier's behaviour on a split. N samples, K classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lab.data.dataset import LabelledImages
from lab.nn.plots import new_figure, plot_class_bars, plot_confusion, save_figure
from lab.tasks.classification.deploy import sigmoid, softmax

MAX_MISTAKES = 36


def draw_all(dataset: LabelledImages, logits_NK: np.ndarray, folder: Path, split: str) -> list[Path]:
    """Confusion matrix, accuracy by class and most confident mistakes; with several labels per image, no matrix."""
    targets = dataset.targets()
    if targets.ndim == 2:
        return [
            plot_class_accuracy(label_accuracy(logits_NK, targets), dataset.labels, folder, split),
            plot_mistakes(dataset, *label_mistakes(logits_NK, targets), folder, split),
        ]
    matrix_KK = confusion_matrix(logits_NK.argmax(axis=1), targets, len(dataset.labels))
    return [
        plot_counts(matrix_KK, dataset.labels, folder, split),
        plot_class_accuracy(recall_by_class(matrix_KK), dataset.labels, folder, split),
        plot_mistakes(dataset, *class_mistakes(logits_NK, targets), folder, split),
    ]


def confusion_matrix(predicted_N: np.ndarray, targets_N: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts [true K, predicted K]."""
    flat = np.bincount(targets_N * num_classes + predicted_N, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


def recall_by_class(matrix_KK: np.ndarray) -> np.ndarray:
    """Share of each true class that was recognised [K]; NaN for a class without samples."""
    totals_K = matrix_KK.sum(axis=1)
    rates_K: np.ndarray = np.where(totals_K > 0, matrix_KK.diagonal() / np.maximum(totals_K, 1), np.nan)
    return rates_K


def label_accuracy(logits_NK: np.ndarray, targets_NK: np.ndarray) -> np.ndarray:
    """Share of images for which each label was decided rightly [K]."""
    rates_K: np.ndarray = ((logits_NK >= 0) == (targets_NK >= 0.5)).mean(axis=0)
    return rates_K


def class_mistakes(
    logits_NK: np.ndarray, targets_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(index, true class, predicted class, probability) of every wrong sample, most confident first."""
    probabilities_NK = softmax(logits_NK)
    predicted_N = logits_NK.argmax(axis=1)
    wrong = np.flatnonzero(predicted_N != targets_N)
    confidence = probabilities_NK[wrong, predicted_N[wrong]]
    order = wrong[np.argsort(-confidence, kind="stable")]
    return order, targets_N[order], predicted_N[order], probabilities_NK[order, predicted_N[order]]


def label_mistakes(
    logits_NK: np.ndarray, targets_NK: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """As `class_mistakes` for the worst label of each image; true class -1: the label is absent."""
    present_NK = targets_NK >= 0.5
    wrongness_NK = np.where(present_NK, 1 - sigmoid(logits_NK), sigmoid(logits_NK))
    worst_N = wrongness_NK.argmax(axis=1)
    confidence_N = wrongness_NK[np.arange(len(worst_N)), worst_N]
    order = np.argsort(-confidence_N, kind="stable")
    order = order[confidence_N[order] > 0.5]
    labels, is_present = worst_N[order], present_NK[order, worst_N[order]]
    return order, np.where(is_present, labels, -1), np.where(is_present, -1, labels), confidence_N[order]


def plot_counts(matrix_KK: np.ndarray, labels: tuple[str, ...], folder: Path, split: str) -> Path:
    """`confusion_matrix.png` with the numbers of images in its cells."""
    texts_KK = np.where(matrix_KK > 0, matrix_KK.astype(str), "")
    return plot_confusion(matrix_KK, texts_KK, labels, folder, split, "images")


def plot_class_accuracy(rates_K: np.ndarray, labels: tuple[str, ...], folder: Path, split: str) -> Path:
    """`class_accuracy.png`: bars, worst class first; of many classes the worst ones only."""
    return plot_class_bars(
        100 * rates_K,
        labels,
        folder / "class_accuracy.png",
        title=f"Accuracy by class, {split} split",
        unit="accuracy (%)",
        mean=f"{100 * float(np.nanmean(rates_K)):.2f} %",
        top=100,
        absent="no samples",
    )


def plot_mistakes(
    dataset: LabelledImages,
    order: np.ndarray,
    true: np.ndarray,
    predicted: np.ndarray,
    probability: np.ndarray,
    folder: Path,
    split: str,
) -> Path:
    """`mistakes.png`: a sheet of the most confident mistakes with true class, predicted class and probability."""
    shown = min(MAX_MISTAKES, len(order))
    num_columns = 6
    num_rows = max(1, -(-shown // num_columns))
    figure = new_figure(1.9 * num_columns, 2.3 * num_rows + 0.5)
    figure.suptitle(f"Most confident mistakes, {split} split: {shown} of {len(order)} among {len(dataset)} images")
    for number, axis in enumerate(figure.subplots(num_rows, num_columns, squeeze=False).ravel()):
        axis.set_axis_off()
        if number >= shown:
            continue
        image_HWC = dataset[int(order[number])].image
        axis.imshow(image_HWC[..., 0] if image_HWC.shape[2] == 1 else image_HWC, cmap="gray", vmin=0, vmax=255)
        names = [_name(dataset.labels, int(index)) for index in (true[number], predicted[number])]
        axis.set_title(f"true: {names[0]}\npredicted: {names[1]}\n{100 * probability[number]:.1f} %", fontsize=7)
    return save_figure(figure, folder / "mistakes.png")


def _name(labels: tuple[str, ...], index: int) -> str:
    text = labels[index] if index >= 0 else "(not this label)"
    return text if len(text) <= 22 else f"{text[:21]}…"
