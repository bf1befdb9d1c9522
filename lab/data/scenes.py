"""Fashion scenes: garments of Fashion-MNIST at random places and sizes on a canvas, with exact boxes and masks.

Real pixels in an artificial layout. Scene i of a split is a function of (split, i) alone: it is composed when asked for
(a few milliseconds, about the time a JPEG of its size takes to decode), so that nothing but Fashion-MNIST is on disk.
Train scenes take garments of the train split, test scenes those of the test split.
Shape letters: H, W canvas; h, w one garment; C colours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from PIL import Image

from lab.artifacts.files import sha256_json
from lab.core.errors import DataError
from lab.core.seeding import stream
from lab.data.dataset import Annotation, ArrayDataset, Boxes, Kind, Sample

SIZE = 300
NUM_SCENES = {"train": 2000, "test": 500}
NUM_OBJECTS = (1, 8)
GARMENT_SIZES = (28, 140)
"""Longer side of a garment in pixels, smallest and largest; drawn evenly on a logarithmic scale."""
MIN_VISIBLE = 0.5
"""A garment is placed only where every garment keeps this share of its pixels uncovered."""
BACKGROUND = "background"
# Part of the digest: another layout from the same garments is another data set.
GENERATOR = 1
_TRIES = 20
_OPAQUE = 128
_FAINT = 24


@dataclass(frozen=True)
class _Garment:
    """Grey pixels, coverage and class of one garment at its final size, and its corner on the canvas."""

    grey_hw: np.ndarray
    alpha_hw: np.ndarray
    class_index: int
    top: int
    left: int

    @property
    def window(self) -> tuple[slice, slice]:
        height, width = self.grey_hw.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


class FashionScenes:
    """Scenes of one split. `kind` "boxes": ten classes, the box of a garment encloses its visible pixels exactly.
    "mask": class 0 is the background, then the ten garments."""

    def __init__(self, garments: ArrayDataset, split: Literal["train", "test"], kind: Kind) -> None:
        if kind not in ("boxes", "mask"):
            raise DataError("fashion-scenes has no annotations of this kind", got=kind, expected="boxes or mask")
        self.garments = garments
        self.split = split
        self.kind: Kind = kind
        self.labels = garments.labels if kind == "boxes" else (BACKGROUND, *garments.labels)
        self.source = f"fashion-scenes/{split}"

    def __len__(self) -> int:
        return NUM_SCENES[self.split]

    def __getitem__(self, index: int) -> Sample:
        rng = self._rng(index)
        placed, owner_HW = self._layout(rng)
        # A stream of its own, so that `annotation` need not draw the background to stay in step.
        image = _paint(placed, stream(0, "fashion-scenes", self.split, index, "colours"))
        return Sample(image, self._annotation(placed, owner_HW), f"{self.source}[{index}]")

    def annotation(self, index: int) -> Annotation:
        return self._annotation(*self._layout(self._rng(index)))

    @cached_property
    def digest(self) -> str:
        """Of the garments and of what the generator does with them; composing every scene would cost a minute."""
        return sha256_json([self.garments.digest, GENERATOR, self.split, len(self), self.kind, self.labels])

    def _rng(self, index: int) -> np.random.Generator:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return stream(0, "fashion-scenes", self.split, index)

    def _layout(self, rng: np.random.Generator) -> tuple[list[_Garment], np.ndarray]:
        """The garments in drawing order, and the int8 [H, W] number of the garment seen at each pixel (-1: none)."""
        owner_HW = np.full((SIZE, SIZE), -1, np.int8)
        placed: list[_Garment] = []
        areas: list[int] = []
        visible: list[int] = []
        for _ in range(int(rng.integers(NUM_OBJECTS[0], NUM_OBJECTS[1] + 1))):
            garment = self._draw(rng)
            opaque_hw = garment.alpha_hw >= _OPAQUE
            for _try in range(_TRIES):
                garment = _moved(garment, rng)
                under = owner_HW[garment.window]
                hidden = np.bincount(under[opaque_hw] + 1, minlength=len(placed) + 1)[1:]
                left = [seen - int(lost) for seen, lost in zip(visible, hidden, strict=True)]
                if all(seen >= MIN_VISIBLE * area for seen, area in zip(left, areas, strict=True)):
                    under[opaque_hw] = len(placed)
                    placed.append(garment)
                    areas.append(int(opaque_hw.sum()))
                    visible = [*left, areas[-1]]
                    break
        return placed, owner_HW

    def _draw(self, rng: np.random.Generator) -> _Garment:
        index = int(rng.integers(len(self.garments)))
        low, high = GARMENT_SIZES
        size = int(low * (high / low) ** rng.random())
        flip = bool(rng.integers(2))
        sample = self.garments[index]
        grey = sample.image[..., 0]
        grey_hw, alpha_hw = _scaled(grey[:, ::-1] if flip else grey, size)
        assert isinstance(sample.label, int)
        return _Garment(grey_hw, alpha_hw, sample.label, 0, 0)

    def _annotation(self, placed: list[_Garment], owner_HW: np.ndarray) -> Annotation:
        if self.kind == "mask":
            values = np.asarray([0, *(garment.class_index + 1 for garment in placed)], np.uint8)
            mask: np.ndarray = values[owner_HW + 1]
            return mask
        boxes = [_tight_box(owner_HW == number) for number in range(len(placed))]
        return Boxes.of(boxes, [garment.class_index for garment in placed])


def silhouette(grey_hw: np.ndarray) -> np.ndarray:
    """The pixels of a garment on black, dark ones inside included: those with bright ones on all four sides."""
    # Fashion-MNIST's black is sprinkled with single faint pixels around the garment.
    lit = grey_hw > min(_FAINT, int(grey_hw.max()) - 1)
    accumulate = np.maximum.accumulate
    rows = accumulate(lit, axis=1) & accumulate(lit[:, ::-1], axis=1)[:, ::-1]
    columns = accumulate(lit, axis=0) & accumulate(lit[::-1], axis=0)[::-1]
    inside: np.ndarray = rows & columns
    return inside


def _scaled(grey: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut to the silhouette and scaled to a longer side of `size`: grey and coverage 0..255."""
    inside = silhouette(grey)
    left, top, right, bottom = _tight_box(inside)
    cut = np.s_[top:bottom, left:right]
    scale = size / max(right - left, bottom - top)
    shape = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))
    resized = [
        np.asarray(Image.fromarray(np.ascontiguousarray(part[cut])).resize(shape, Image.Resampling.BICUBIC))
        for part in (grey, np.where(inside, np.uint8(255), np.uint8(0)))
    ]
    return resized[0], resized[1]


def _moved(garment: _Garment, rng: np.random.Generator) -> _Garment:
    height, width = garment.grey_hw.shape
    top, left = int(rng.integers(SIZE - height + 1)), int(rng.integers(SIZE - width + 1))
    return _Garment(garment.grey_hw, garment.alpha_hw, garment.class_index, top, left)


def _tight_box(inside_HW: np.ndarray) -> tuple[int, int, int, int]:
    """(xmin, ymin, xmax, ymax), the maxima exclusive."""
    rows, columns = np.flatnonzero(inside_HW.any(axis=1)), np.flatnonzero(inside_HW.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _paint(placed: list[_Garment], rng: np.random.Generator) -> np.ndarray:
    """Tinted garments on a smooth random background with noise; whole numbers throughout, equal on every machine."""
    cells = int(rng.integers(2, 7))
    coarse = Image.fromarray(rng.integers(20, 236, (cells, cells, 3), dtype=np.uint8))
    image_HWC = np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC)).astype(np.int32)
    spread = int(rng.integers(1, 25))
    image_HWC += rng.integers(-spread, spread + 1, (SIZE, SIZE, 1), dtype=np.int32)
    image_HWC = np.clip(image_HWC, 0, 255)
    for garment in placed:
        tint_C = rng.integers(96, 256, 3, dtype=np.int32)
        alpha_hw1 = garment.alpha_hw[..., None].astype(np.int32)
        garment_hwC = garment.grey_hw[..., None].astype(np.int32) * tint_C // 255
        under = image_HWC[garment.window]
        image_HWC[garment.window] = (garment_hwC * alpha_hw1 + under * (255 - alpha_hw1) + 127) // 255
    return image_HWC.astype(np.uint8)
