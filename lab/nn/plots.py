"""Pictures that every task's training shares. Matplotlib is imported when something is drawn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lab.artifacts.files import storage_errors
from lab.core.errors import ArtifactError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
MAX_NAMED_CLASSES = 40
"""With more classes the names would overlap, and numbers in cells could not be read."""
_SPLITS = {"train": ("tab:blue", "-"), "validation": ("tab:orange", "-"), "test": ("tab:green", "--")}


def new_figure(width_inches: float, height_inches: float) -> Figure:
    """A figure that belongs to no window and to no global state; saved as PNG by the Agg canvas."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_inches, height_inches), layout="constrained")


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a PNG. Raises StorageError."""
    with storage_errors(f"writing {path.name}", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=DPI, format="png")
    return path


def plot_confusion(
    matrix_KK: np.ndarray, texts_KK: np.ndarray, labels: Sequence[str], folder: Path, split: str, unit: str
) -> Path:
    """`confusion_matrix.png`: rows true, columns predicted, coloured by share of the row.

    `texts_KK` is what the cells say ("" nothing), where the classes are few enough; `unit` what was counted, "images".
    """
    num_classes = len(labels)
    shares_KK = matrix_KK / np.maximum(matrix_KK.sum(axis=1, keepdims=True), 1)
    size = float(np.clip(0.55 * num_classes + 2.5, 5, 16))
    figure = new_figure(size + 1, size)
    axis = figure.subplots()
    image = axis.imshow(shares_KK, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axis, label=f"share of the true class's {unit}", shrink=0.8)
    axis.set_title(f"Confusion matrix, {split} split ({int(matrix_KK.sum()):,} {unit})")
    axis.set_xlabel("predicted class")
    axis.set_ylabel("true class")
    if num_classes <= MAX_NAMED_CLASSES:
        axis.set_xticks(range(num_classes), labels, rotation=45, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(num_classes), labels)
        for row, column in np.argwhere(texts_KK != ""):
            colour = "white" if shares_KK[row, column] > 0.5 else "black"
            text = str(texts_KK[row, column])
            axis.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    return save_figure(figure, folder / "confusion_matrix.png")


def plot_class_bars(
    values_K: np.ndarray,
    labels: Sequence[str],
    path: Path,
    *,
    title: str,
    unit: str,
    mean: str,
    top: float,
    absent: str,
) -> Path:
    """Bars of one value per class, worst class first; of many classes the worst ones only.

    Args:
        title: what the value is and of which split; how many classes are shown, and `mean`, are added.
        unit: name of the axis.
        top: the best value there can be; more than 1 is written with one decimal, else with three.
        absent: written where a value is NaN.
    """
    order = np.argsort(np.where(np.isnan(values_K), np.inf, values_K), kind="stable")[:MAX_NAMED_CLASSES]
    values = values_K[order]
    figure = new_figure(7, float(np.clip(0.28 * len(order) + 1.5, 3, 12)))
    axis = figure.subplots()
    bars = axis.barh(np.arange(len(order)), np.nan_to_num(values), color="tab:blue")
    decimals = 1 if top > 1 else 3
    texts = [absent if np.isnan(value) else f"{value:.{decimals}f}" for value in values]
    axis.bar_label(bars, texts, padding=3, fontsize=8)
    axis.set_yticks(range(len(order)), [labels[int(index)] for index in order])
    axis.invert_yaxis()
    axis.set_xlim(0, 1.1 * top)
    axis.set_xlabel(unit)
    axis.set_ylabel("class")
    shown = "" if len(order) == len(labels) else f", worst {len(order)} of {len(labels)}"
    axis.set_title(f"{title}{shown}; mean {mean}")
    return save_figure(figure, path)


def plot_curves(metrics_jsonl: Path, folder: Path) -> Path:
    """Draw every metric over training, one panel each, from rows {"step", "epoch", name: value, ...}.

    Names such as "train/loss" and "validation/loss" share the panel "loss". Panels have epochs on the horizontal axis:
    a row of step s lies at s / steps-per-epoch, so that curves per step and per epoch line up.

    Raises:
        ArtifactError: no such file, a line that is not JSON, or nothing to draw.
    """
    rows = read_metrics(metrics_jsonl)
    curves = _curves(rows)
    if not curves:
        raise ArtifactError(f"{metrics_jsonl} holds no metrics to draw")
    panels = _panels(list(curves))
    num_columns = min(3, len(panels))
    num_rows = -(-len(panels) // num_columns)
    figure = new_figure(4.6 * num_columns, 3.4 * num_rows)
    axes = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    for axis, (title, names) in zip(axes, panels.items(), strict=False):
        _draw_panel(axis, title, {name: curves[name] for name in names})
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    return save_figure(figure, folder / "curves.png")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; a last line cut off by a kill is left out. Raises ArtifactError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read", got=error.strerror) from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise ArtifactError(f"{path}:{number} is not JSON", got=line[:80]) from error
    return rows


def _curves(rows: list[dict[str, Any]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Metric -> (epochs, values); a resumed run writes some steps again, and the last value counts."""
    epochs = [int(row.get("epoch", 0)) for row in rows] or [0]
    last_step = max((int(row["step"]) for row in rows if row.get("step") is not None), default=0)
    steps_per_epoch = max(1.0, last_step / (max(epochs) - min(epochs) + 1))
    points: dict[str, dict[float, float]] = {}
    for row in rows:
        step, epoch = row.get("step"), row.get("epoch", 0)
        at = float(step) / steps_per_epoch if step is not None else float(epoch) + 1
        for name, value in row.items():
            if name not in ("step", "epoch") and isinstance(value, int | float) and not isinstance(value, bool):
                points.setdefault(name, {})[at] = float(value)
    ordered = {name: sorted(values.items()) for name, values in points.items()}
    return {name: (np.array([x for x, _ in v]), np.array([y for _, y in v])) for name, v in ordered.items()}


def _panels(names: list[str]) -> dict[str, list[str]]:
    """Panel title -> metrics; loss first, then accuracy, then the others as they came."""
    panels: dict[str, list[str]] = {}
    for name in names:
        panels.setdefault(_title(name), []).append(name)
    first = [title for title in ("loss", "accuracy") if title in panels]
    return {title: panels[title] for title in (*first, *(t for t in panels if t not in first))}


def _title(name: str) -> str:
    """The panel of a metric: its name without the split, and without "epoch_" (a mean over the epoch)."""
    return name.split("/", 1)[-1].removeprefix("epoch_") if "/" in name else name


def _draw_panel(axis: Axes, title: str, curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    for name, (epochs, values) in sorted(curves.items()):
        split = name.split("/", 1)[0] if "/" in name else ""
        colour, style = _SPLITS.get(split, ("tab:gray", "-"))
        marker = "o" if len(epochs) <= 40 else ""
        is_mean = "/epoch_" in name
        label = f"{split}, epoch mean" if is_mean else split or name
        axis.plot(epochs, values, "--" if is_mean else style, color=colour, marker=marker, markersize=3, label=label)
    axis.set_title(title)
    axis.set_xlabel("epoch")
    axis.set_ylabel(title)
    axis.set_xlim(left=0)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
