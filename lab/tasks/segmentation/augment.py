"""Random changes of training images: scale, crop and flips with their masks (numpy), colours on whole batches.

Shape letters: B batch, C channels, H height, W width, S side of the crop.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from lab.data.dataset import IGNORE
from lab.data.preprocess import Box, resize_image
from lab.tasks.segmentation.config import AugmentConfig, ImageConfig
from lab.tasks.segmentation.geometry import mean_colour, scaled_size

CROP_TRIES = 10
_LUMA = (0.299, 0.587, 0.114)


def random_view(
    image_HWC: np.ndarray, mask_HW: np.ndarray, image: ImageConfig, augment: AugmentConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One training view of an image and its mask: uint8 [S, S, C] and uint8 [S, S].

    The image is scaled to base_size times a random factor, the aspect kept, then a random square is cut (SS-H6, H7).
    Where the scaled image is smaller, the mean colour and 255 fill up the right and the bottom.
    """
    height, width = scaled_size(mask_HW.shape, image.base_size, image.base_side, rng.uniform(*image.scale))
    part = (min(image.side, height), min(image.side, width))
    for _ in range(CROP_TRIES):
        top, left = (int(rng.integers(0, full - kept + 1)) for full, kept in zip((height, width), part, strict=True))
        box = _source_box(mask_HW.shape, (height, width), (top, left), part)
        view_HW = resize_image(mask_HW[..., None], *part, "nearest", box)[..., 0]
        if augment.max_class_share >= 1 or _largest_share(view_HW) <= augment.max_class_share:
            break
    picture = np.empty((image.side, image.side, image.channels), np.uint8)
    picture[:] = mean_colour(image.mean)
    # Only the part that is kept is resized, which for large photographs is most of the work saved.
    picture[: part[0], : part[1]] = resize_image(image_HWC, *part, image.interpolation, box)
    mask = np.full((image.side, image.side), IGNORE, np.uint8)
    mask[: part[0], : part[1]] = view_HW
    return flipped(picture, mask, augment.flips, rng)


def _source_box(size: tuple[int, int], scaled: tuple[int, int], corner: tuple[int, int], part: tuple[int, int]) -> Box:
    """The stretch of the original image that a part of the scaled one comes from."""
    ratio_y, ratio_x = size[0] / scaled[0], size[1] / scaled[1]
    right, lower = (corner[1] + part[1]) * ratio_x, (corner[0] + part[0]) * ratio_y
    return corner[1] * ratio_x, corner[0] * ratio_y, min(right, size[1]), min(lower, size[0])


def _largest_share(mask_HW: np.ndarray) -> float:
    counts = np.bincount(mask_HW.ravel(), minlength=IGNORE + 1)[:IGNORE]
    return float(counts.max() / max(1, counts.sum()))


def flipped(
    image_HWC: np.ndarray, mask_HW: np.ndarray, flips: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A random one of the allowed symmetries, the same for both."""
    if flips == "none":
        return image_HWC, mask_HW
    mirrored, turned, transposed = (bool(value) for value in rng.integers(0, 2, 3))
    if mirrored:
        image_HWC, mask_HW = image_HWC[:, ::-1], mask_HW[:, ::-1]
    if flips == "all" and turned:
        image_HWC, mask_HW = image_HWC[::-1], mask_HW[::-1]
    if flips == "all" and transposed:
        image_HWC, mask_HW = image_HWC.transpose(1, 0, 2), mask_HW.T
    return image_HWC, mask_HW


def change_first_colours(x_BCHW: Tensor, augment: AugmentConfig, rng: np.random.Generator) -> Tensor:
    """Random colours, by `augment`, of the first three channels; pixels of 0..255, uint8 or float."""
    if not augment.changes_colours:
        return x_BCHW
    coloured = change_colours(x_BCHW[:, :3], *colour_changes(len(x_BCHW), augment, rng))
    return coloured if x_BCHW.shape[1] == 3 else torch.cat((coloured, x_BCHW[:, 3:].float()), dim=1)


def colour_changes(num: int, augment: AugmentConfig, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Float32 matrices [B, 3, 3] and offsets [B, 3] for RGB pixels of 0..1: hue, saturation, contrast, brightness.

    All four are linear in RGB: the hue turns about the grey axis (Rodrigues' formula), saturation scales the distance
    from the luma, contrast scales about the middle grey.
    """
    limits = np.array([augment.hue_degrees, augment.saturation, augment.contrast, augment.brightness])
    hue_B, saturation_B, contrast_B, brightness_B = rng.uniform(-limits, limits, (num, 4)).T
    angle_B11 = np.deg2rad(hue_B)[:, None, None]
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    grey = np.full((3, 3), 1 / 3)
    turn_B33 = np.cos(angle_B11) * np.eye(3) + np.sin(angle_B11) * cross + (1 - np.cos(angle_B11)) * grey
    luma = np.tile(np.array(_LUMA), (3, 1))
    saturate_B33 = luma + (1 + saturation_B)[:, None, None] * (np.eye(3) - luma)
    matrices_B33 = (1 + contrast_B)[:, None, None] * (saturate_B33 @ turn_B33)
    offsets_B = brightness_B - 0.5 * contrast_B
    return matrices_B33.astype(np.float32), np.repeat(offsets_B[:, None], 3, axis=1).astype(np.float32)


def change_colours(x_BCHW: Tensor, matrices_B33: np.ndarray, offsets_B3: np.ndarray) -> Tensor:
    """Apply `colour_changes` to pixels of 0..255; float32, clipped to 0..255."""
    matrices = torch.from_numpy(matrices_B33).to(x_BCHW.device)
    offsets = torch.from_numpy(255 * offsets_B3).to(x_BCHW.device)
    flat = x_BCHW.float().flatten(2)
    return torch.baddbmm(offsets[:, :, None], matrices, flat).clamp_(0, 255).view(x_BCHW.shape)
