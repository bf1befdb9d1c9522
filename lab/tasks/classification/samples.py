"""Samples of data sets on disk, decoded and cropped one by one in worker processes.

What can be done on whole batches (flip, colour, mixing, normalisation) is left to the device: see `learn.on_device`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from lab.core.errors import DataError
from lab.core.seeding import stream
from lab.data.dataset import ImageDataset
from lab.data.preprocess import (
    ImagePreprocessing,
    check_large_enough,
    fit,
    resize_shorter,
    to_channels,
)
from lab.tasks.classification.augment import random_affine_crop, random_box
from lab.tasks.classification.config import AugmentConfig


@dataclass(frozen=True)
class EvalSample:
    """`load(epoch, index)` without randomness: {"image": uint8 CHW, "target"}."""

    dataset: ImageDataset
    preprocessing: ImagePreprocessing

    def __call__(self, epoch: int, index: int) -> dict[str, Any]:
        sample = self.dataset[index]
        return {"image": _chw(_named(sample.name, fit, sample.image, self.preprocessing)), "target": sample.label}


@dataclass(frozen=True)
class TrainSample:
    """`load(epoch, index)` with the random crop of the augmentation level; random by (seed, epoch, index) alone."""

    dataset: ImageDataset
    preprocessing: ImagePreprocessing
    augment: AugmentConfig
    seed: int

    def __call__(self, epoch: int, index: int) -> dict[str, Any]:
        sample = self.dataset[index]
        rng = stream(self.seed, "crop", epoch, index)
        image = _named(sample.name, random_view, sample.image, self.preprocessing, self.augment, rng)
        return {"image": _chw(image), "target": sample.label}


def random_view(
    image_HWC: np.ndarray, preprocessing: ImagePreprocessing, augment: AugmentConfig, rng: np.random.Generator
) -> np.ndarray:
    """One training image of any size as uint8 of the configured (H, W, C).

    Raises:
        DataError: smaller than the crop, padding included.
    """
    channels, height, width = preprocessing.shape
    if augment.level == "none":
        return fit(image_HWC, preprocessing)
    image = to_channels(image_HWC, channels)
    if augment.crop_scale is not None:
        return _resized_crop(image, random_box(image.shape[0], image.shape[1], augment.crop_scale, rng), preprocessing)
    if preprocessing.resize is not None:
        image = resize_shorter(image, preprocessing.resize, preprocessing.interpolation)
    padding = augment.crop_padding
    check_large_enough(image.shape[0] + 2 * padding, image.shape[1] + 2 * padding, height, width)
    if augment.level == "crop_color_transform":
        x_1CHW = torch.from_numpy(_chw(image))[None].float()
        transformed = random_affine_crop(x_1CHW, height, width, padding, rng)[0]
        return transformed.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    if padding:
        image = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    top = int(rng.integers(0, image.shape[0] - height + 1))
    left = int(rng.integers(0, image.shape[1] - width + 1))
    return image[top : top + height, left : left + width]


def _resized_crop(
    image_HWC: np.ndarray, box: tuple[int, int, int, int], preprocessing: ImagePreprocessing
) -> np.ndarray:
    top, left, box_height, box_width = box
    part = image_HWC[top : top + box_height, left : left + box_width]
    _, height, width = preprocessing.shape
    grey = part.shape[2] == 1
    source = Image.fromarray(np.ascontiguousarray(part[..., 0] if grey else part))
    resized = np.asarray(source.resize((width, height), Image.Resampling.BILINEAR))
    return resized[..., None] if grey else resized


def _chw(image_HWC: np.ndarray) -> np.ndarray:
    """A writable, contiguous copy: torch warns of read-only arrays."""
    return np.array(image_HWC.transpose(2, 0, 1), order="C", copy=True)


def _named(name: str, call: Any, *arguments: Any) -> np.ndarray:
    """Call, and put the sample's name into a DataError."""
    try:
        image: np.ndarray = call(*arguments)
    except DataError as error:
        raise DataError(f"{name}: {error.what}", got=error.got, expected=error.expected, hint=error.hint) from error
    return image
