"""Pictures of a detector's behaviour on a split, and its precision by class as a table.

Shape letters: K classes, R recall levels, T overlap thresholds.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lab.artifacts.files import write_text
from lab.data.dataset import Boxes, ImageDataset
from lab.nn.plots import MAX_NAMED_CLASSES, new_figure, plot_class_bars, save_figure
from lab.tasks.detection.deploy import DRAW_THRESHOLD, draw, picture
from lab.tasks.detection.responses import Detections
from lab.tasks.detection.scoring import COCO_THRESHOLDS, Curves, Scorer, thresholds

NUM_PICTURES = 12


def draw_all(dataset: ImageDataset, scorer: Scorer, folder: Path, split: str) -> list[Path]:
    """`class_ap.png` and `.csv`, `precision_recall.png` and `pictures.png` in `folder`."""
    curves = scorer.curves()
    return [
        plot_class_ap(curves, dataset.labels, folder, split),
        write_class_ap(curves, scorer, folder),
        plot_precision_recall(curves, dataset.labels, folder, split),
        plot_pictures(dataset, scorer.detections, folder, split),
    ]


def class_table(curves: Curves) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average precision per class [K]: COCO's mean, at 0.5, at 0.75; NaN for a class without objects."""
    ap_TK = curves.class_ap()
    levels = thresholds(curves.overlap_threshold)
    coco = [index for index, level in enumerate(levels) if level in COCO_THRESHOLDS]
    return ap_TK[coco].mean(axis=0), ap_TK[curves.at(0.5)], ap_TK[curves.at(0.75)]


def write_class_ap(curves: Curves, scorer: Scorer, folder: Path) -> Path:
    """`class_ap.csv`: label, number of objects, map, map_50, map_75. Raises StorageError."""
    counts_K = np.zeros(len(scorer.labels), np.int64)
    for truth in scorer.truths:
        counts_K += np.bincount(truth.classes_K[~truth.ignore_K], minlength=len(counts_K))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["label", "num_objects", "map", "map_50", "map_75"])
    for label, count, *values in zip(scorer.labels, counts_K.tolist(), *class_table(curves), strict=True):
        writer.writerow([label, count, *("" if np.isnan(value) else f"{value:.4f}" for value in values)])
    path = folder / "class_ap.csv"
    write_text(path, text.getvalue())
    return path


def plot_class_ap(curves: Curves, labels: Sequence[str], folder: Path, split: str) -> Path:
    """`class_ap.png`: bars at overlap 0.5, worst class first; of many classes the worst ones only."""
    return plot_class_bars(
        class_table(curves)[1],
        labels,
        folder / "class_ap.png",
        title=f"Average precision by class, {split} split",
        unit="average precision at overlap 0.5",
        mean=f"{curves.scores()['map_50']:.3f}",
        top=1,
        absent="no objects",
    )


def plot_precision_recall(curves: Curves, labels: Sequence[str], folder: Path, split: str) -> Path:
    """`precision_recall.png`: a curve per class at overlap 0.5, and their mean; of many classes the mean alone."""
    precision_RK = curves.precision_TRKAD[curves.at(0.5), :, :, 0, -1]
    there_K = precision_RK.min(axis=0) >= 0
    recall_R = np.linspace(0, 1, len(precision_RK))
    figure = new_figure(7.5, 5)
    axis = figure.subplots()
    if there_K.sum() <= MAX_NAMED_CLASSES / 2:
        for index in np.flatnonzero(there_K):
            axis.plot(recall_R, precision_RK[:, index], linewidth=1, label=labels[int(index)])
    if there_K.any():
        axis.plot(recall_R, precision_RK[:, there_K].mean(axis=1), color="black", linewidth=2, label="mean")
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1.02)
    axis.set_xlabel("recall")
    axis.set_ylabel("precision")
    axis.set_title(f"Precision over recall at overlap 0.5, {split} split")
    axis.grid(alpha=0.3)
    if axis.lines:
        axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return save_figure(figure, folder / "precision_recall.png")


def plot_pictures(dataset: ImageDataset, found: Sequence[Detections], folder: Path, split: str) -> Path:
    """`pictures.png`: evenly chosen images, the true boxes on the left, the found ones on the right."""
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(NUM_PICTURES, len(dataset))).astype(int))
    num_rows = -(-len(chosen) // 3)
    figure = new_figure(15, 2.8 * num_rows + 0.5)
    figure.suptitle(f"True boxes beside the found ones (score {DRAW_THRESHOLD:g} and more), {split} split")
    axes = figure.subplots(num_rows, 6, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for place, index in enumerate(chosen):
        sample, detections = dataset[int(index)], found[int(index)]
        truth, likely = sample.label, detections.scores_K >= DRAW_THRESHOLD
        assert isinstance(truth, Boxes)
        axes[2 * place].imshow(picture(sample.image, truth.boxes_K4, truth.classes_K, dataset.labels))
        axes[2 * place + 1].imshow(draw(sample.image, detections, dataset.labels))
        axes[2 * place].set_title(f"true: {len(truth)}", fontsize=7)
        axes[2 * place + 1].set_title(f"found: {int(likely.sum())}", fontsize=7)
    return save_figure(figure, folder / "pictures.png")
