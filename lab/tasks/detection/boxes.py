"""Boxes: default boxes, overlap, matching and the encoding that the network predicts.

Boxes are corners (xmin, ymin, xmax, ymax) as shares of the image unless a name says otherwise. Shape letters: A default
boxes, B batch, K and M boxes, 4 coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lab.core.errors import ConfigError

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""Scale of the encoded centre and size: the inverse of the "variances" 0.1 and 0.2 of the authors' code."""
MAX_LOG_SIZE = math.log(1000.0 / 16)
"""A predicted box is at most 62.5 times as large as its default box."""
PAPER_STEPS: dict[tuple[int, tuple[int, ...]], tuple[float, ...]] = {
    (300, (38, 19, 10, 5, 3, 1)): (8, 16, 32, 64, 100, 300)
}
"""(image size, sides of the maps) -> pixels between neighbouring centres, where the paper's are not size / side."""


def default_scales(size: int, num_maps: int) -> tuple[float, ...]:
    """The paper's scales for COCO (section 3.4), carried over to any number of maps: num_maps + 1 numbers."""
    first, low, high = (0.04, 0.1, 0.9) if size >= 512 else (0.07, 0.15, 0.87)
    step = (high - low) / max(1, num_maps - 2)
    return (first, *(round(low + step * number, 4) for number in range(num_maps)))


def default_aspect_ratios(num_maps: int) -> tuple[tuple[float, ...], ...]:
    """2 and 3; on the first and on the last two maps 2 alone (section 3.1 of the paper)."""
    return tuple((2.0,) if number in (0, num_maps - 2, num_maps - 1) else (2.0, 3.0) for number in range(num_maps))


def default_boxes(
    size: int, sides: Sequence[int], scales: Sequence[float], aspect_ratios: Sequence[Sequence[float]]
) -> Tensor:
    """The default boxes of square feature maps as centre x, centre y, width, height: [A, 4] (section 2.2).

    Of each cell: the square of the map's scale, the square between it and the next map's, then each aspect ratio and
    its inverse. Cells in rows; widths and heights at most 1.

    Raises:
        ConfigError: not one scale more than maps, or not as many aspect ratios as maps.
    """
    if len(scales) != len(sides) + 1 or len(aspect_ratios) != len(sides):
        raise ConfigError(
            f"boxes.scales and boxes.aspect_ratios do not fit {len(sides)} feature maps",
            got=f"{len(scales)} scales, {len(aspect_ratios)} aspect ratios",
            expected=f"{len(sides) + 1} and {len(sides)}",
        )
    steps = PAPER_STEPS.get((size, tuple(sides)), tuple(size / side for side in sides))
    maps = []
    for number, (side, step) in enumerate(zip(sides, steps, strict=True)):
        centre = (torch.arange(side) + 0.5) / (size / step)
        y, x = torch.meshgrid(centre, centre, indexing="ij")
        shapes_K2 = torch.tensor(_shapes(scales[number], scales[number + 1], aspect_ratios[number])).clamp(max=1)
        centres_H1W2 = torch.stack((x, y), dim=-1).unsqueeze(2).expand(side, side, len(shapes_K2), 2)
        maps.append(torch.cat((centres_H1W2, shapes_K2.expand_as(centres_H1W2)), dim=-1).reshape(-1, 4))
    return torch.cat(maps)


def _shapes(scale: float, next_scale: float, aspect_ratios: Sequence[float]) -> list[tuple[float, float]]:
    between = math.sqrt(scale * next_scale)
    shapes = [(scale, scale), (between, between)]
    for ratio in aspect_ratios:
        long, short = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
        shapes += [(long, short), (short, long)]
    return shapes


def to_corners(boxes_A4: Tensor) -> Tensor:
    """Centre x, centre y, width, height to corners; any leading dimensions."""
    centre, half = boxes_A4[..., :2], 0.5 * boxes_A4[..., 2:]
    return torch.cat((centre - half, centre + half), dim=-1)


def encode(boxes_BA4: Tensor, defaults_A4: Tensor) -> Tensor:
    """What the network should predict at default boxes (centre and size) for these corners (equation 2)."""
    centre, size = (boxes_BA4[..., :2] + boxes_BA4[..., 2:]) * 0.5, boxes_BA4[..., 2:] - boxes_BA4[..., :2]
    moved = (centre - defaults_A4[..., :2]) / defaults_A4[..., 2:]
    grown = torch.log(size / defaults_A4[..., 2:])
    return torch.cat((moved * WEIGHTS[0], grown * WEIGHTS[2]), dim=-1)


def decode(codes_BA4: Tensor, defaults_A4: Tensor) -> Tensor:
    """Corners from the network's predictions at default boxes (centre and size); the inverse of `encode`."""
    centre = codes_BA4[..., :2] * (1 / WEIGHTS[0]) * defaults_A4[..., 2:] + defaults_A4[..., :2]
    grown = (codes_BA4[..., 2:] * (1 / WEIGHTS[2])).clamp(max=MAX_LOG_SIZE)
    half = torch.exp(grown) * (0.5 * defaults_A4[..., 2:])
    return torch.cat((centre - half, centre + half), dim=-1)


def iou(boxes_BM4: Tensor, others_BK4: Tensor) -> Tensor:
    """Intersection over union of every pair [B, M, K]; any leading dimensions that broadcast. 0 / 0 is 0."""
    a, b = boxes_BM4.unsqueeze(-2), others_BK4.unsqueeze(-3)
    shared = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp_(min=0).prod(-1)
    areas = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1)
    return shared / (areas - shared).clamp(min=1e-12)


def match(
    boxes_BM4: Tensor, present_BM: Tensor, ignore_BM: Tensor, defaults_A4: Tensor, match_iou: float
) -> tuple[Tensor, Tensor]:
    """Which object each default box is to find: (index [B, A], -1 for none; left out [B, A]).

    A default box gets the object it overlaps most, if by `match_iou` or more; and each object gets the default box that
    overlaps it most, whatever the overlap (section 2.2; where two objects want the same one, the later has it, as in
    torchvision's SSDMatcher). Default boxes on an ignored object are left out: neither object nor background.

    Args:
        boxes_BM4: corners, padded to M.
        present_BM: objects that are there and not ignored.
        ignore_BM: objects that are there and ignored.
        defaults_A4: corners of the default boxes.
    """
    index_BA = boxes_BM4.new_full((len(boxes_BM4), len(defaults_A4)), -1, dtype=torch.int64)
    left_out_BA = torch.zeros_like(index_BA, dtype=torch.bool)
    if boxes_BM4.shape[1] == 0:
        return index_BA, left_out_BA
    iou_BMA = iou(boxes_BM4, defaults_A4)
    of_objects_BMA = iou_BMA.masked_fill(~present_BM.unsqueeze(-1), -1.0)
    best_BA, object_BA = of_objects_BMA.max(dim=1)
    index_BA = torch.where(best_BA >= match_iou, object_BA, index_BA)
    order_M = torch.arange(boxes_BM4.shape[1], device=boxes_BM4.device)
    wanted_BM = torch.where(present_BM, order_M, -1)
    forced_BA = torch.full_like(index_BA, -1).scatter_reduce(1, of_objects_BMA.argmax(dim=2), wanted_BM, "amax")
    index_BA = torch.where(forced_BA >= 0, forced_BA, index_BA)
    on_ignored_BA = ((iou_BMA >= match_iou) & ignore_BM.unsqueeze(-1)).any(dim=1)
    return index_BA, on_ignored_BA & (index_BA < 0)
