"""Random changes of whole batches of images, each a function of the batch and a numpy generator.

The few random numbers per image are drawn on the CPU, so that a seed gives the same pictures on every device, whatever
was drawn from torch's global generators.
Shape letters: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

# Ranges of Amazon SageMaker's augmentation_type (IC-H3).
MAX_HUE, MAX_SATURATION, MAX_LIGHTNESS = 36.0, 50.0, 50.0
"""Hue of 0..180, saturation and lightness of 0..255, as OpenCV and MXNet count them."""
MAX_ROTATION_DEGREES, MAX_SHEAR, MAX_ASPECT_CHANGE = 10.0, 0.1, 0.25

# Inception's random crop tries this often to fit a box, then takes the middle (Szegedy et al. 2015, section 6).
CROP_TRIES, ASPECT_RANGE = 10, (3 / 4, 4 / 3)


def random_crop(x_BCHW: Tensor, height: int, width: int, padding: int, rng: np.random.Generator) -> Tensor:
    """Cut height x width at a random place of each image, after adding `padding` zeros on every side."""
    padded = F.pad(x_BCHW, (padding,) * 4) if padding else x_BCHW
    num, _, full_height, full_width = padded.shape
    tops = rng.integers(0, full_height - height + 1, num)
    lefts = rng.integers(0, full_width - width + 1, num)
    # A view of every possible window; indexing it copies one window per image, without a loop.
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    index_B = torch.arange(num, device=padded.device)
    return windows[index_B, :, _to(tops, padded), _to(lefts, padded)]


def random_flip(x_BCHW: Tensor, rng: np.random.Generator) -> Tensor:
    """Mirror each image left to right with probability 1/2."""
    flipped_B = rng.random(len(x_BCHW)) < 0.5
    if x_BCHW.device.type == "cpu":  # image by image stays within the cache: a sixth of the time
        result = x_BCHW.clone()
        for index in np.flatnonzero(flipped_B).tolist():
            result[index] = x_BCHW[index].flip(2)
        return result
    return torch.where(_to(flipped_B, x_BCHW)[:, None, None, None], x_BCHW.flip(3), x_BCHW)


def draw_hls_offsets(num: int, rng: np.random.Generator) -> np.ndarray:
    """Float32 [num, 3]: uniform offsets of hue (0..180), lightness and saturation (0..255), in that order."""
    limits = np.array([MAX_HUE, MAX_LIGHTNESS, MAX_SATURATION])
    return rng.uniform(-limits, limits, (num, 3)).astype(np.float32)


def shift_hls(x_BCHW: Tensor, offsets_B3: Tensor) -> Tensor:
    """Add offsets in HLS space to pixels in 0..1; hue wraps around, lightness and saturation are clipped.

    Grey images (C = 1) have no hue or saturation: only their lightness changes.
    Conversion: Foley et al., Computer Graphics (HLS double hexcone), with k as in CSS Color 4, section 7.
    """
    lightness_offset = offsets_B3[:, 1, None, None] / 255
    if x_BCHW.shape[1] == 1:
        return (x_BCHW + lightness_offset[:, None]).clamp(0, 1)
    hue, lightness, saturation = _rgb_to_hls(x_BCHW)
    hue = hue + offsets_B3[:, 0, None, None] / 180
    lightness = (lightness + lightness_offset).clamp(0, 1)
    saturation = (saturation + offsets_B3[:, 2, None, None] / 255).clamp(0, 1)
    return _hls_to_rgb(hue, lightness, saturation)


def _rgb_to_hls(x_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue, lightness, saturation, each [B, H, W] in 0..1."""
    red, green, blue = x_BCHW.unbind(1)
    high, low = x_BCHW.amax(1), x_BCHW.amin(1)
    lightness, span = (high + low) / 2, high - low
    is_grey = span <= 0
    safe_span = torch.where(is_grey, torch.ones_like(span), span)
    room = 1 - (2 * lightness - 1).abs()
    saturation = torch.where(is_grey, torch.zeros_like(span), span / room.clamp_min(1e-12)).clamp(0, 1)
    sextant = torch.where(
        high == red,
        (green - blue) / safe_span,
        torch.where(high == green, (blue - red) / safe_span + 2, (red - green) / safe_span + 4),
    )
    hue = torch.where(is_grey, torch.zeros_like(span), (sextant / 6).remainder(1.0))
    return hue, lightness, saturation


def _hls_to_rgb(hue: Tensor, lightness: Tensor, saturation: Tensor) -> Tensor:
    """[B, 3, H, W]; hue may lie outside 0..1."""
    amplitude = saturation * torch.minimum(lightness, 1 - lightness)
    channels = []
    for start in (0.0, 8.0, 4.0):
        k = (start + 12 * hue).remainder(12.0)
        channels.append(lightness - amplitude * torch.minimum(k - 3, 9 - k).clamp(-1, 1))
    return torch.stack(channels, 1).clamp(0, 1)


def draw_affine(num: int, rng: np.random.Generator) -> np.ndarray:
    """Float32 [num, 3]: rotation in degrees, shear, and change of the aspect ratio, uniform within the ranges."""
    limits = np.array([MAX_ROTATION_DEGREES, MAX_SHEAR, MAX_ASPECT_CHANGE])
    return rng.uniform(-limits, limits, (num, 3)).astype(np.float32)


def affine_matrices(parameters_B3: np.ndarray) -> np.ndarray:
    """Float64 [B, 2, 2] from (rotation, shear, aspect change): centred (x, y) to their new place.

    The aspect ratio becomes 1 + change at about the same area, as in MXNet's default image augmenter.
    """
    angle, shear = np.deg2rad(parameters_B3[:, 0].astype(np.float64)), parameters_B3[:, 1].astype(np.float64)
    ratio = 1.0 + parameters_B3[:, 2].astype(np.float64)
    scale_y = 2 / (1 + ratio)
    scale_x = ratio * scale_y
    cos, sin = np.cos(angle), np.sin(angle)
    rows = [cos * scale_y - shear * sin * scale_x, sin * scale_y + shear * cos * scale_x, -sin * scale_x, cos * scale_x]
    matrices: np.ndarray = np.stack(rows, axis=1).reshape(-1, 2, 2)
    return matrices


def affine_crop(
    x_BCHW: Tensor, matrices_B22: np.ndarray, tops: np.ndarray, lefts: np.ndarray, height: int, width: int
) -> Tensor:
    """Transform float images about their centre and cut height x width at (top, left): one bilinear interpolation.

    Places outside the image mirror it. Tops and lefts may be negative or beyond (padding).
    """
    num, _, full_height, full_width = x_BCHW.shape
    inverse = torch.from_numpy(np.linalg.inv(matrices_B22)).to(x_BCHW.device, torch.float32)
    xs = _to(lefts, x_BCHW)[:, None] + torch.arange(width, device=x_BCHW.device) + 0.5 - full_width / 2
    ys = _to(tops, x_BCHW)[:, None] + torch.arange(height, device=x_BCHW.device) + 0.5 - full_height / 2
    points = torch.stack(
        (xs[:, None, :].expand(num, height, width), ys[:, :, None].expand(num, height, width)), dim=-1
    ).float()
    sources = torch.einsum("bij,bhwj->bhwi", inverse, points)
    grid = sources * torch.tensor([2 / full_width, 2 / full_height], device=x_BCHW.device)
    return F.grid_sample(x_BCHW, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def random_affine_crop(x_BCHW: Tensor, height: int, width: int, padding: int, rng: np.random.Generator) -> Tensor:
    """`crop_color_transform`'s geometry: rotation, shear and aspect change, with a random crop."""
    num, _, full_height, full_width = x_BCHW.shape
    matrices = affine_matrices(draw_affine(num, rng))
    tops = rng.integers(0, full_height + 2 * padding - height + 1, num) - padding
    lefts = rng.integers(0, full_width + 2 * padding - width + 1, num) - padding
    return affine_crop(x_BCHW, matrices, tops, lefts, height, width)


def random_box(
    height: int, width: int, scale: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a part with a share of the area within `scale` and an aspect within 3/4..4/3.

    Source: Szegedy et al. 2015, arXiv:1409.4842, section 6.
    """
    low, high = (math.log(value) for value in ASPECT_RANGE)
    for _ in range(CROP_TRIES):
        area = height * width * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(low, high))
        box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(rng.integers(0, height - box_height + 1))
            return top, int(rng.integers(0, width - box_width + 1)), box_height, box_width
    side_height = min(height, round(width / ASPECT_RANGE[0]))
    side_width = min(width, round(height * ASPECT_RANGE[1]))
    return (height - side_height) // 2, (width - side_width) // 2, side_height, side_width


def random_resized_crop(
    x_BCHW: Tensor, height: int, width: int, scale: tuple[float, float], rng: np.random.Generator
) -> Tensor:
    """A random box of each float image (see `random_box`), resized to height x width bilinearly."""
    full_height, full_width = x_BCHW.shape[2:]
    boxes_B4 = torch.tensor([random_box(full_height, full_width, scale, rng) for _ in x_BCHW], device=x_BCHW.device)
    top, left, box_height, box_width = boxes_B4.float().unbind(1)
    ys = top[:, None] + (torch.arange(height, device=x_BCHW.device) + 0.5) * (box_height / height)[:, None]
    xs = left[:, None] + (torch.arange(width, device=x_BCHW.device) + 0.5) * (box_width / width)[:, None]
    grid = torch.stack(
        (
            (2 * xs / full_width - 1)[:, None, :].expand(-1, height, width),
            (2 * ys / full_height - 1)[:, :, None].expand(-1, height, width),
        ),
        dim=-1,
    )
    return F.grid_sample(x_BCHW, grid, mode="bilinear", padding_mode="border", align_corners=False)


def mixup(x_BCHW: Tensor, targets_BK: Tensor, alpha: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Blend each image and its target with another one's (Zhang et al. 2018, arXiv:1710.09412, equation 1)."""
    share = float(rng.beta(alpha, alpha))
    partner = _to(rng.permutation(len(x_BCHW)), x_BCHW)
    return torch.lerp(x_BCHW[partner], x_BCHW, share), torch.lerp(targets_BK[partner], targets_BK, share)


def cutmix(x_BCHW: Tensor, targets_BK: Tensor, alpha: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Paste a box of another image; targets mix by its area (Yun et al. 2019, arXiv:1905.04899, section 3.1)."""
    height, width = x_BCHW.shape[2:]
    partner = _to(rng.permutation(len(x_BCHW)), x_BCHW)
    side = math.sqrt(1.0 - float(rng.beta(alpha, alpha)))
    top, bottom = _span(height, side, rng)
    left, right = _span(width, side, rng)
    mixed = x_BCHW.clone()
    mixed[:, :, top:bottom, left:right] = x_BCHW[partner, :, top:bottom, left:right]
    kept = 1.0 - (bottom - top) * (right - left) / (height * width)
    return mixed, torch.lerp(targets_BK[partner], targets_BK, kept)


def _span(size: int, share: float, rng: np.random.Generator) -> tuple[int, int]:
    """A stretch of about share * size around a random middle, clipped to 0..size."""
    middle, half = int(rng.integers(size)), int(size * share) // 2
    return max(0, middle - half), min(size, middle + half)


def _to(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(like.device)
