"""Random changes of training images: SSD's (Liu et al. 2016, sections 2.2 and 3.6), with torchvision's distributions.

Zoom-out, IoU crop, flip and resize are drawn first and then done as one resampling of the pixels that are needed: the
canvas of a zoom-out has up to sixteen times the pixels of the image, nearly all of them thrown away. Colours change on
the device, a batch at a time.

Shape letters: B batch, C channels, H height, W width, K boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lab.data.dataset import Boxes
from lab.tasks.detection.config import AugmentConfig
from lab.tasks.detection.numpy_boxes import iou

KEEP = 1.0
CROP_OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, KEEP)
"""Least overlap of a crop with some object; the last one stands for the whole image."""
CROP_TRIES = 40
CROP_SIDES = (0.3, 1.0)
CROP_ASPECTS = (0.5, 2.0)
LEAST_SIDE = 1.0
"""Objects with a shorter side, in pixels of the image, are dropped."""
BRIGHTNESS, CONTRAST, SATURATION, HUE = (0.875, 1.125), (0.5, 1.5), (0.5, 1.5), (-0.05, 0.05)


@dataclass(frozen=True)
class View:
    """The part of the plane that the network sees, in pixels of the image, which it may exceed on all sides."""

    left: int
    top: int
    width: int
    height: int
    flip: bool = False


def draw_view(boxes_K4: np.ndarray, height: int, width: int, options: AugmentConfig, rng: np.random.Generator) -> View:
    """Zoom-out, IoU crop and flip for an image with objects at `boxes_K4`, as torchvision's transforms draw them."""
    view = View(0, 0, width, height)
    if options.zoom_out > 1 and rng.random() < 0.5:
        ratio = 1 + rng.random() * (options.zoom_out - 1)
        canvas_width, canvas_height = int(width * ratio), int(height * ratio)
        left, top = (int(room * rng.random()) for room in (canvas_width - width, canvas_height - height))
        view = View(-left, -top, canvas_width, canvas_height)
    if options.iou_crop and len(boxes_K4):
        view = _cropped(view, boxes_K4, rng)
    flip = options.flip and rng.random() < 0.5
    return View(view.left, view.top, view.width, view.height, flip)


def _cropped(whole: View, boxes_K4: np.ndarray, rng: np.random.Generator) -> View:
    while True:
        least = CROP_OVERLAPS[int(rng.integers(len(CROP_OVERLAPS)))]
        if least == KEEP:
            return whole
        for _ in range(CROP_TRIES):
            share_W, share_H = CROP_SIDES[0] + (CROP_SIDES[1] - CROP_SIDES[0]) * rng.random(2)
            width, height = int(whole.width * share_W), int(whole.height * share_H)
            if not width or not height or not CROP_ASPECTS[0] <= width / height <= CROP_ASPECTS[1]:
                continue
            left = whole.left + int((whole.width - width) * rng.random())
            top = whole.top + int((whole.height - height) * rng.random())
            view = View(left, top, width, height)
            inside_K = centres_inside(boxes_K4, view)
            window_14 = np.asarray([[left, top, left + width, top + height]], np.float32)
            if inside_K.any() and iou(boxes_K4[inside_K], window_14).max() >= least:
                return view


def centres_inside(boxes_K4: np.ndarray, view: View) -> np.ndarray:
    """Which boxes have their centre inside of the view [K]."""
    x_K, y_K = (boxes_K4[:, 0] + boxes_K4[:, 2]) / 2, (boxes_K4[:, 1] + boxes_K4[:, 3]) / 2
    across_K = (view.left < x_K) & (x_K < view.left + view.width)
    inside_K: np.ndarray = across_K & (view.top < y_K) & (y_K < view.top + view.height)
    return inside_K


def boxes_in_view(boxes: Boxes, view: View) -> Boxes:
    """The objects with their centre in the view, cut off at its border, as shares of it."""
    size = np.asarray([view.width, view.height] * 2, np.float32)
    corner = np.asarray([view.left, view.top] * 2, np.float32)
    pixels_K4 = np.clip(boxes.boxes_K4 - corner, 0, size)
    long_enough_K = (pixels_K4[:, 2:] - pixels_K4[:, :2] >= LEAST_SIDE).all(axis=1)
    kept_K = centres_inside(boxes.boxes_K4, view) & long_enough_K
    shares_K4 = np.clip(pixels_K4[kept_K] / size, 0, 1)
    if view.flip:
        shares_K4[:, [0, 2]] = 1 - shares_K4[:, [2, 0]]
    return Boxes(shares_K4, boxes.classes_K[kept_K], boxes.ignore_K[kept_K])


def render(image_HWC: np.ndarray, view: View, size: int, fill: Sequence[int]) -> np.ndarray:
    """What the view shows of an RGB image, uint8 [size, size, 3]; `fill` is the colour outside of the image."""
    height, width = image_HWC.shape[:2]
    x_scale, y_scale = size / view.width, size / view.height
    # Whole pixels of the result that lie inside of the image, and what they show of it.
    left, right = _inside(view.left, width, x_scale, size)
    top, bottom = _inside(view.top, height, y_scale, size)
    canvas = np.empty((size, size, 3), np.uint8)
    canvas[:] = np.asarray(fill, np.uint8)
    if right > left and bottom > top:
        shown = (
            max(0.0, view.left + left / x_scale), max(0.0, view.top + top / y_scale),
            min(width, view.left + right / x_scale), min(height, view.top + bottom / y_scale),
        )  # fmt: skip
        source = Image.fromarray(np.ascontiguousarray(image_HWC))
        part = source.resize((right - left, bottom - top), Image.Resampling.BILINEAR, box=shown)
        canvas[top:bottom, left:right] = np.asarray(part)
    return canvas[:, ::-1] if view.flip else canvas


def _inside(start: int, length: int, scale: float, size: int) -> tuple[int, int]:
    """First and last + 1 pixel of the result that lies in the image, along one axis."""
    # The tolerance keeps a border that falls on a whole pixel from being lost to rounding.
    first = int(np.ceil(-start * scale - 1e-6))
    last = int(np.floor((length - start) * scale + 1e-6))
    return max(0, first), min(size, last)


def distort_colours(x_BCHW: Tensor, rng: np.random.Generator, *, permute_channels: bool) -> Tensor:
    """torchvision's RandomPhotometricDistort for a batch of pixels in 0..1, other draws for every image; in place."""
    count = len(x_BCHW)
    factors = {
        name: (rng.random(count) < 0.5, rng.uniform(*limits, count))
        for name, limits in (
            ("brightness", BRIGHTNESS), ("contrast", CONTRAST), ("saturation", SATURATION), ("hue", HUE),
        )
    }  # fmt: skip
    contrast_first = rng.random(count) < 0.5
    chosen, contrast = factors["contrast"]
    _change(x_BCHW, *factors["brightness"], scale_brightness)
    _change(x_BCHW, chosen & contrast_first, contrast, scale_contrast)
    _change(x_BCHW, *factors["saturation"], scale_saturation)
    _change(x_BCHW, *factors["hue"], shift_hue)
    _change(x_BCHW, chosen & ~contrast_first, contrast, scale_contrast)
    permuted, orders_BC = rng.random(count) < 0.5, rng.permuted(np.tile(np.arange(3), (count, 1)), axis=1)
    for index in np.flatnonzero(permuted) if permute_channels else ():
        x_BCHW[index] = x_BCHW[index, torch.from_numpy(orders_BC[index]).to(x_BCHW.device)]
    return x_BCHW


def _change(
    x_BCHW: Tensor, chosen_B: np.ndarray, factor_B: np.ndarray, change: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """Replace the chosen images by `change(images, factors)`."""
    if chosen_B.any():
        index = torch.from_numpy(np.flatnonzero(chosen_B)).to(x_BCHW.device)
        factor = torch.from_numpy(factor_B[chosen_B].astype(np.float32)).to(x_BCHW.device)
        x_BCHW[index] = change(x_BCHW[index], factor.view(-1, 1, 1, 1))


def scale_brightness(x_BCHW: Tensor, factor_B111: Tensor) -> Tensor:
    return (x_BCHW * factor_B111).clamp_(0, 1)


def scale_contrast(x_BCHW: Tensor, factor_B111: Tensor) -> Tensor:
    """Away from, or towards, the image's mean grey."""
    return torch.lerp(_grey(x_BCHW).mean(dim=(1, 2, 3), keepdim=True), x_BCHW, factor_B111).clamp_(0, 1)


def scale_saturation(x_BCHW: Tensor, factor_B111: Tensor) -> Tensor:
    """Away from, or towards, each pixel's own grey."""
    return torch.lerp(_grey(x_BCHW), x_BCHW, factor_B111).clamp_(0, 1)


def _grey(x_BCHW: Tensor) -> Tensor:
    """ITU-R 601 luma [B, 1, H, W], with the digits that torchvision has."""
    red, green, blue = _colours(x_BCHW)
    return red * 0.2989 + green * 0.587 + blue * 0.114


def _colours(x_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x_BCHW[:, 0:1], x_BCHW[:, 1:2], x_BCHW[:, 2:3]


def shift_hue(x_BCHW: Tensor, turn_B111: Tensor) -> Tensor:
    """Turn the hue by a share of the whole circle, in the HSV model."""
    red, green, blue = _colours(x_BCHW)
    value = x_BCHW.amax(dim=1, keepdim=True)
    chroma = value - x_BCHW.amin(dim=1, keepdim=True)
    unit = torch.where(chroma == 0, 1.0, chroma)
    of_green_or_blue = torch.where(value == green, (blue - red) / unit + 2, (red - green) / unit + 4)
    sextant = torch.where(value == red, (green - blue) / unit, of_green_or_blue) + 6 * turn_B111
    offsets_1C11 = x_BCHW.new_tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1)
    place = torch.remainder(sextant + offsets_1C11, 6)
    return value - chroma * torch.minimum(place, 4 - place).clamp_(0, 1)
