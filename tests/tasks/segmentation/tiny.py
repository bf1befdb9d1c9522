"""A tiny data set of coloured shapes with masks, in images of several sizes, and a configuration that learns it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from lab.data.dataset import IGNORE, Sample
from lab.tasks.segmentation.geometry import Layout, SegmentationPreprocessing

CLASSES = ("ground", "red", "green")
COLOURS = ((110, 110, 110), (220, 40, 40), (40, 200, 60))
SIZES = ((40, 40), (56, 31), (24, 24), (33, 70), (48, 47))


def picture(size: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rectangles of two classes on the ground, with a stripe that does not count: image [H, W, 3] and mask [H, W]."""
    height, width = size
    mask_HW = np.zeros(size, np.uint8)
    for index in (1, 2):
        top, left = int(rng.integers(0, height // 2)), int(rng.integers(0, width // 2))
        mask_HW[top : top + height // 2, left : left + width // 2] = index
    image_HWC = np.asarray(COLOURS, np.int64)[mask_HW] + rng.integers(-20, 21, (height, width, 3))
    mask_HW[:, 0] = IGNORE
    return image_HWC.clip(0, 255).astype(np.uint8), mask_HW


def write_tiny_masks(folder: Path, num_images: int = 40, seed: int = 0) -> Path:
    """images/NNN.png and masks/NNN.png; returns the folder."""
    rng = np.random.default_rng(seed)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(num_images):
        image_HWC, mask_HW = picture(SIZES[number % len(SIZES)], rng)
        Image.fromarray(image_HWC).save(folder / "images" / f"{number:03}.png")
        Image.fromarray(mask_HW).save(folder / "masks" / f"{number:03}.png")
    return folder


def tiny_config(folder: Path, **changes: Any) -> dict[str, Any]:
    """A configuration on it; nested `changes` replace whole sections."""
    config: dict[str, Any] = {
        "task": "segmentation",
        "name": "tiny",
        "data": {
            "format": "mask_folder",
            "train": {"path": str(folder / "images"), "annotations": str(folder / "masks")},
            "class_names": list(CLASSES),
            "validation_fraction": 0.25,
        },
        "image": {"crop_size": 30, "base_size": None, "scale": [0.8, 1.25]},  # rounded up to 32
        "model": {
            "name": "fcn",
            "backbone": "resnet18",
            "output_stride": 16,
            "skips": ["layer1"],
            "refine_channels": 8,
        },
        "optimizer": {"name": "nag", "learning_rate": 0.02},
        "train": {"epochs": 2, "batch_size": 6, "device": "cpu", "num_threads": 1},
        "tracking": {"enabled": False},
    }
    return config | changes


def settle(model: nn.Module, num_channels: int = 3) -> nn.Module:
    """The model in evaluation mode with BatchNorm statistics of random images, so that its outputs differ."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn(4, num_channels, 64, 64, generator=torch.Generator().manual_seed(0)))
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def perfect_masks(task: Any, samples: Sequence[Sample]) -> dict[str, np.ndarray]:
    """The rows of a network that gives the true class nine more than the others."""
    understood = SegmentationPreprocessing.from_dict(task.preprocessing)
    rows = []
    for sample in samples:
        mask_HW = np.asarray(sample.label)
        layout = Layout.of((mask_HW.shape[0], mask_HW.shape[1]), understood)
        for top, left in layout.corners:
            part = mask_HW[top : top + understood.side, left : left + understood.side]
            padded = np.full((understood.side, understood.side), IGNORE)
            padded[: part.shape[0], : part.shape[1]] = part
            rows.append(9.0 * (padded == np.arange(len(task.labels))[:, None, None]))
    return {"logits": np.stack(rows).astype(np.float32)}
