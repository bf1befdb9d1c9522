"""Pictures and tables of a model's behaviour on a split. K classes, H height, W width."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from lab.artifacts.files import write_text
from lab.data.dataset import IGNORE, ImageDataset
from lab.data.draw import palette
from lab.data.preprocess import first_three
from lab.nn.plots import MAX_NAMED_CLASSES, new_figure, plot_class_bars, plot_confusion, save_figure
from lab.tasks.segmentation.scores import class_iou, class_recall, confusion_matrix, scores_of

MAX_PICTURES = 8


class Gallery:
    """What the pictures need of a split, image by image in its order: counts, scores, and a few predictions."""

    def __init__(self, num_classes: int) -> None:
        self.matrix_KK = np.zeros((num_classes, num_classes), np.int64)
        self.image_miou: list[float] = []
        self._iou_sums: list[float] = []
        self._predictions: dict[int, np.ndarray] = {}

    def add(self, predicted_BHW: np.ndarray, truth_BHW: np.ndarray, sizes_B2: np.ndarray) -> None:
        """One evaluation batch; masks are padded to a common size."""
        for predicted, truth, (height, width) in zip(predicted_BHW, truth_BHW, sizes_B2, strict=True):
            matrix_KK = confusion_matrix(predicted[:height, :width], truth[:height, :width], len(self.matrix_KK))
            self.matrix_KK += matrix_KK
            self._predictions[len(self.image_miou)] = predicted[:height, :width].copy()
            self.image_miou.append(scores_of(matrix_KK)["miou"])
            self._iou_sums.append(float(np.nansum(class_iou(matrix_KK))))
            self._forget()

    def _forget(self) -> None:
        """Keep the best and the worst images alone: a split may not fit into memory."""
        if len(self._predictions) > 4 * MAX_PICTURES:
            kept = self.chosen()
            self._predictions = {index: mask for index, mask in self._predictions.items() if index in kept}

    def chosen(self) -> list[int]:
        """The images with the lowest mIoU, then those with the highest sum of IoU over their classes, half of each.

        By the sum, as an image of one class, all sea say, is perfect without any merit.
        """
        worst_first = sorted(self._predictions, key=lambda index: (self.image_miou[index], index))
        if len(worst_first) <= MAX_PICTURES:
            return worst_first
        half = MAX_PICTURES // 2
        others = sorted(worst_first[half:], key=lambda index: (self._iou_sums[index], index))
        return worst_first[:half] + others[-half:]

    def prediction(self, index: int) -> np.ndarray:
        return self._predictions[index]


def draw_all(dataset: ImageDataset, gallery: Gallery, folder: Path, split: str) -> list[Path]:
    """Confusion matrix and IoU by class, as pictures and as numbers, and the worst and best images."""
    labels = dataset.labels
    return [
        plot_shares(gallery.matrix_KK, labels, folder, split),
        plot_class_iou(gallery.matrix_KK, labels, folder, split),
        plot_overlays(dataset, gallery, folder, split),
        write_class_table(gallery.matrix_KK, labels, folder),
        write_confusion(gallery.matrix_KK, labels, folder, split),
    ]


def plot_shares(matrix_KK: np.ndarray, labels: tuple[str, ...], folder: Path, split: str) -> Path:
    """`confusion_matrix.png` with the percentages of the true class's pixels in its cells."""
    shares_KK = matrix_KK / np.maximum(matrix_KK.sum(axis=1, keepdims=True), 1)
    texts_KK = np.where(shares_KK >= 0.005, np.round(100 * shares_KK).astype(int).astype(str), "")
    return plot_confusion(matrix_KK, texts_KK, labels, folder, split, "pixels")


def plot_class_iou(matrix_KK: np.ndarray, labels: tuple[str, ...], folder: Path, split: str) -> Path:
    """`class_iou.png`: bars, worst class first; of many classes the worst ones only."""
    return plot_class_bars(
        100 * class_iou(matrix_KK),
        labels,
        folder / "class_iou.png",
        title=f"IoU by class, {split} split",
        unit="intersection over union (%)",
        mean=f"{100 * scores_of(matrix_KK)['miou']:.2f} %",
        top=100,
        absent="absent",
    )


def plot_overlays(dataset: ImageDataset, gallery: Gallery, folder: Path, split: str) -> Path:
    """`overlays.png`: image, truth and prediction side by side, of the images that `Gallery.chosen` names."""
    chosen, colours = gallery.chosen(), palette(len(dataset.labels))
    figure = new_figure(9, 3.0 * max(1, len(chosen)) + 0.5)
    figure.suptitle(f"Worst and best images, {split} split of {len(dataset)}: image, truth, prediction")
    seen: set[int] = set()
    axes = figure.subplots(max(1, len(chosen)), 3, squeeze=False)
    for row, index in zip(axes, chosen, strict=False):
        sample = dataset[index]
        truth_HW, predicted_HW = np.asarray(sample.label), gallery.prediction(index)
        seen |= {int(value) for mask in (truth_HW, predicted_HW) for value in np.unique(mask) if value != IGNORE}
        pictures = (first_three(sample.image), painted(truth_HW, colours), painted(predicted_HW, colours))
        names = (Path(sample.name).name[-40:], "truth", f"prediction, mIoU {100 * gallery.image_miou[index]:.1f} %")
        for axis, picture, name in zip(row, pictures, names, strict=True):
            axis.imshow(picture, vmin=0, vmax=255)
            axis.set_title(name, fontsize=7)
    for axis in axes.ravel():
        axis.set_axis_off()
    _legend(figure, dataset.labels, colours, sorted(seen))
    return save_figure(figure, folder / "overlays.png")


def painted(mask_HW: np.ndarray, colours_K3: np.ndarray) -> np.ndarray:
    """A mask in the classes' colours, uint8 [H, W, 3]; pixels that do not count are white."""
    table = np.full((256, 3), 255, np.uint8)
    table[: len(colours_K3)] = colours_K3
    picture: np.ndarray = table[mask_HW]
    return picture


def _legend(figure: Any, labels: tuple[str, ...], colours_K3: np.ndarray, seen: list[int]) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=tuple(colours_K3[index] / 255), label=labels[index]) for index in seen]
    if patches:
        figure.legend(handles=patches[:MAX_NAMED_CLASSES], loc="outside lower center", ncols=4, fontsize=7)


def write_class_table(matrix_KK: np.ndarray, labels: tuple[str, ...], folder: Path) -> Path:
    """`class_iou.csv`: class, iou, recall, true and predicted pixels; empty where a class does not occur."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("class", "iou", "recall", "true_pixels", "predicted_pixels"))
    columns = (class_iou(matrix_KK), class_recall(matrix_KK), matrix_KK.sum(axis=1), matrix_KK.sum(axis=0))
    for label, iou, recall, num_true, num_predicted in zip(labels, *columns, strict=True):
        shares = ["" if np.isnan(value) else f"{value:.6f}" for value in (iou, recall)]
        table.writerow((label, *shares, int(num_true), int(num_predicted)))
    write_text(folder / "class_iou.csv", text.getvalue())
    return folder / "class_iou.csv"


def write_confusion(matrix_KK: np.ndarray, labels: tuple[str, ...], folder: Path, split: str) -> Path:
    """`confusion_matrix.json`: labels, pixel counts [true, predicted], and the scores that follow from them."""
    content = {"split": split, "labels": list(labels), "pixels": matrix_KK.tolist(), "scores": scores_of(matrix_KK)}
    write_text(folder / "confusion_matrix.json", json.dumps(content, indent=1) + "\n")
    return folder / "confusion_matrix.json"
