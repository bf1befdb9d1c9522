"""Samples of data sets on disk, decoded and cropped one by one in worker processes.

What can be done on whole batches (flip, colour, mixing, normalisation) is left to the device: see `learn.on_device`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from lab.core.errors import DataError
from lab.core.seeding import stream
from lab.data.dataset import ImageDataset, LabelledImages
from lab.data.decode import decode, image_size
from lab.data.preprocess import (
    ImagePreprocessing,
    check_large_enough,
    fit,
    resize_shorter,
    to_channels,
)
from lab.data.raw import RawSample, decode_annotation, raw_sample
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

    dataset: LabelledImages
    preprocessing: ImagePreprocessing
    augment: AugmentConfig
    seed: int

    def __call__(self, epoch: int, index: int) -> dict[str, Any]:
        raw = raw_sample(self.dataset, index)
        rng = stream(self.seed, "crop", epoch, index)
        if raw is None:
            sample = self.dataset[index]
            image = _named(sample.name, random_view, sample.image, self.preprocessing, self.augment, rng)
            return {"image": _chw(image), "target": sample.label}
        image = _named(raw.name, encoded_view, raw, self.preprocessing, self.augment, rng)
        return {"image": _chw(image), "target": self.dataset.annotation(index)}


@dataclass(frozen=True)
class StreamSample:
    """`load(raw, epoch)` for a stream: as `TrainSample`, random by (seed, epoch, raw.index) alone."""

    num_classes: int
    preprocessing: ImagePreprocessing
    augment: AugmentConfig
    seed: int

    def __call__(self, raw: RawSample, epoch: int) -> dict[str, Any]:
        rng = stream(self.seed, "crop", epoch, raw.index)
        image = _named(raw.name, encoded_view, raw, self.preprocessing, self.augment, rng)
        return {"image": _chw(image), "target": decode_annotation(raw, self.num_classes)}


def encoded_view(
    raw: RawSample, preprocessing: ImagePreprocessing, augment: AugmentConfig, rng: np.random.Generator
) -> np.ndarray:
    """`random_view` of an encoded image, which is decoded no larger than the view needs.

    A box drawn on the whole image is cut from the smaller one to the nearest pixel of that one. Raises DataError.
    """
    channels, height, width = preprocessing.shape
    if augment.level == "none":
        return fit(decode(raw.image, raw.name), preprocessing)
    if augment.crop_scale is None:
        shorter = preprocessing.resize
        min_size = (shorter, shorter) if shorter is not None else None
        return random_view(decode(raw.image, raw.name, min_size), preprocessing, augment, rng)
    full_height, full_width = image_size(raw.image, raw.name)
    box = top, left, box_height, box_width = random_box(full_height, full_width, augment.crop_scale, rng)
    min_size = (-(-full_height * height // box_height), -(-full_width * width // box_width))
    image = to_channels(decode(raw.image, raw.name, min_size), channels)
    if image.shape[:2] != (full_height, full_width):
        scale = _scale((full_height, full_width), (image.shape[0], image.shape[1]))
        bottom, right = round((top + box_height) / scale), round((left + box_width) / scale)
        top, left = round(top / scale), round(left / scale)
        box = top, left, max(bottom - top, 1), max(right - left, 1)
    return _resized_crop(image, box, preprocessing)


def _scale(full: tuple[int, int], found: tuple[int, int]) -> int:
    """By which of 2, 4 and 8 a decoder divided the size; it rounds up."""
    return next(scale for scale in (2, 4, 8) if all(-(-a // scale) == b for a, b in zip(full, found, strict=True)))


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
        x_1CHW = _chw(image)[None].float()
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
    """Within 1 of Pillow's antialiased bilinear resize, in a third of its time."""
    top, left, box_height, box_width = box
    part_HWC = image_HWC[top : top + box_height, left : left + box_width]
    # Contiguous for torch's vectorized kernel, and a copy where Pillow's memory is read-only.
    part_HWC = np.array(part_HWC, order="C", copy=not part_HWC.flags.writeable or None)
    x_1CHW = torch.from_numpy(part_HWC).permute(2, 0, 1)[None]
    resized = F.interpolate(x_1CHW, preprocessing.shape[1:], mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def _chw(image_HWC: np.ndarray) -> torch.Tensor:
    """A view; stacking a batch copies it. Read-only pixels are copied here, as torch warns of them."""
    writable = image_HWC if image_HWC.flags.writeable else image_HWC.copy()
    return torch.from_numpy(writable).permute(2, 0, 1)


def _named(name: str, call: Any, *arguments: Any) -> np.ndarray:
    """Call, and put the sample's name into a DataError."""
    try:
        image: np.ndarray = call(*arguments)
    except DataError as error:
        if name in error.what:
            raise
        raise DataError(f"{name}: {error.what}", got=error.got, expected=error.expected, hint=error.hint) from error
    return image
