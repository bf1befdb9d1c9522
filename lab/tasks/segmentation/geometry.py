"""From an image of any size to the network's square inputs, and from their outputs back to the image. Numpy and Pillow.

What an image becomes depends on nothing but its own size, so that no figure depends on the batch it was in.
Shape letters: R rows of the network's batch, K classes, H, W height and width, S the network's side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lab.core.errors import ArtifactError, DataError
from lab.data.preprocess import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ImagePreprocessing,
    from_manifest,
    resize_image,
    to_channels,
    to_manifest,
)

MULTIPLE = 8
"""Inputs are a multiple of this: the least output stride (SS-H7)."""
MODES = ("slide", "resize", "whole")
SIDES = ("longer", "shorter")


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


@dataclass(frozen=True)
class SegmentationPreprocessing:
    """What the manifest says of an image's way into the network; see config.ImageConfig and EvaluationConfig.

    `shape` is (channels, S, S); in mode "whole" images keep their own and S plays no part.
    """

    shape: tuple[int, int, int]
    mode: str = "slide"
    base_size: int | None = None
    base_side: str = "longer"
    overlap: float = 1 / 3
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        known = self.mode in MODES and self.base_side in SIDES
        if not known or self.shape[1] != self.shape[2] or not 0 <= self.overlap < 1:
            raise ArtifactError(
                "the preprocessing is unusable",
                got=f"mode {self.mode}, base_side {self.base_side}, shape {list(self.shape)}, overlap {self.overlap}",
                expected=f"mode {', '.join(MODES)}; {' or '.join(SIDES)}; shape [C, side, side]; overlap in 0..1",
            )
        _ = self.image  # checks mean, std and interpolation

    @property
    def side(self) -> int:
        return self.shape[1]

    @property
    def image(self) -> ImagePreprocessing:
        """The part that knows of colours."""
        return ImagePreprocessing(self.shape, None, "none", self.mean, self.std, self.interpolation)

    def to_dict(self) -> dict[str, Any]:
        return to_manifest(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SegmentationPreprocessing:
        """Raises ArtifactError as `from_manifest`, or on unusable fields."""
        return from_manifest(cls, data, ("shape",))


@dataclass(frozen=True)
class Layout:
    """Where the windows of one image lie: the image is scaled to `scaled`, then cut at `corners` into `window`.

    Sizes are (height, width) in pixels; a window that leaves the scaled image is padded at the right and the bottom.
    """

    size: tuple[int, int]
    scaled: tuple[int, int]
    window: tuple[int, int]
    corners: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, size: tuple[int, int], preprocessing: SegmentationPreprocessing) -> Layout:
        """The layout for an image of `size`: a function of these two alone."""
        side = preprocessing.side
        if preprocessing.mode == "resize":
            return cls(size, (side, side), (side, side), ((0, 0),))
        scaled = scaled_size(size, preprocessing.base_size, preprocessing.base_side)
        if preprocessing.mode == "whole":
            window = (round_up(scaled[0], MULTIPLE), round_up(scaled[1], MULTIPLE))
            return cls(size, scaled, window, ((0, 0),))
        tops, lefts = (starts(length, side, preprocessing.overlap) for length in scaled)
        return cls(size, scaled, (side, side), tuple((top, left) for top in tops for left in lefts))

    def __len__(self) -> int:
        return len(self.corners)


def scaled_size(
    size: tuple[int, int], base_size: int | None, base_side: str = "longer", factor: float = 1.0
) -> tuple[int, int]:
    """(height, width) whose longer or shorter side has `base_size` * factor pixels; None: its own length * factor."""
    side = max(size) if base_side == "longer" else min(size)
    wanted = (base_size or side) * factor
    height, width = (max(1, round(length * wanted / side)) for length in size)
    return height, width


def starts(length: int, side: int, overlap: float) -> tuple[int, ...]:
    """Where windows of `side` begin so that they cover `length`: evenly, neighbours sharing at least `overlap`."""
    if length <= side:
        return (0,)
    stride = max(1, int(side * (1 - overlap)))
    num = -(-(length - side) // stride) + 1
    return tuple(round(index * (length - side) / (num - 1)) for index in range(num))


def check_image(image_HWC: np.ndarray) -> None:
    """Raises DataError for anything but uint8 [H, W, C]."""
    if image_HWC.dtype != np.uint8 or image_HWC.ndim != 3 or min(image_HWC.shape[:2]) < 1:
        found = f"{image_HWC.dtype}{list(image_HWC.shape)}"
        raise DataError("not an image", got=found, expected="uint8[height, width, channels]")


def windows_of(image_HWC: np.ndarray, preprocessing: SegmentationPreprocessing) -> np.ndarray:
    """The rows that one image becomes, uint8 [R, H, W, C]; padded with the mean colour. Raises DataError."""
    check_image(image_HWC)
    image = to_channels(image_HWC, preprocessing.shape[0])
    layout = Layout.of((image.shape[0], image.shape[1]), preprocessing)
    scaled = resize_image(image, *layout.scaled, preprocessing.interpolation)
    height, width = layout.window
    rows_RHWC = np.empty((len(layout), height, width, image.shape[2]), np.uint8)
    rows_RHWC[:] = mean_colour(preprocessing.mean)
    for row, (top, left) in zip(rows_RHWC, layout.corners, strict=True):
        part = scaled[top : top + height, left : left + width]
        row[: part.shape[0], : part.shape[1]] = part
    return rows_RHWC


def mean_colour(mean: Sequence[float]) -> np.ndarray:
    """uint8 [C]: what pads an image."""
    return np.asarray([round(255 * value) for value in mean], np.uint8)


def layouts(
    sizes: Sequence[tuple[int, int]], preprocessing: SegmentationPreprocessing
) -> Iterator[tuple[Layout, slice]]:
    """The layout of each image of a batch, and which rows are its own."""
    first = 0
    for size in sizes:
        layout = Layout.of((int(size[0]), int(size[1])), preprocessing)
        yield layout, slice(first, first + len(layout))
        first += len(layout)


def merge(rows_RKSS: Any, layout: Layout, like: Callable[[np.ndarray], Any] = lambda array: array) -> Any:
    """The scores [K, H, W] of a whole image, at its own size, from those of its windows: mean, then bilinear.

    Works on numpy arrays, and on torch tensors when `like` turns an array into a tensor on their device; both round
    alike, which is what makes validation during training agree with deployment to the last pixel.
    """
    height, width = layout.scaled
    if len(layout) == 1:
        merged = rows_RKSS[0][:, :height, :width]
    else:
        merged = like(np.zeros((rows_RKSS.shape[1], height, width), np.float32))
        counts_HW = np.zeros((height, width), np.float32)
        for row_KSS, (top, left) in zip(rows_RKSS, layout.corners, strict=True):
            part = row_KSS[:, : height - top, : width - left]
            place = (slice(top, top + part.shape[1]), slice(left, left + part.shape[2]))
            merged[:, place[0], place[1]] += part
            counts_HW[place] += 1
        merged /= like(counts_HW)
    return resize_scores(merged, layout.size, like)


def resize_scores(
    scores_KHW: Any, size: tuple[int, int], like: Callable[[np.ndarray], Any] = lambda array: array
) -> Any:
    """Bilinear, corners not aligned, without antialiasing, as torch's interpolate; numpy or torch as in `merge`."""
    height, width = size
    if scores_KHW.shape[1] != height:
        low, high, share = _taps(scores_KHW.shape[1], height)
        weight = like(share[:, None])
        scores_KHW = scores_KHW[:, like(low)] * (1 - weight) + scores_KHW[:, like(high)] * weight
    if scores_KHW.shape[2] != width:
        low, high, share = _taps(scores_KHW.shape[2], width)
        weight = like(share)
        scores_KHW = scores_KHW[:, :, like(low)] * (1 - weight) + scores_KHW[:, :, like(high)] * weight
    return scores_KHW


def _taps(length: int, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `wanted` places along an axis: the two source places, and the share of the second (float32)."""
    at = np.clip((np.arange(wanted) + 0.5) * (length / wanted) - 0.5, 0, length - 1)
    low = np.floor(at).astype(np.int64)
    return low, np.minimum(low + 1, length - 1), (at - low).astype(np.float32)
