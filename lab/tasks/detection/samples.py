"""Samples as the loaders give them, made one by one, in worker processes where there are any.

Colours change later, on whole batches: see `learn.on_device`. K objects of an image, M places for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lab.core.errors import DataError
from lab.core.seeding import stream
from lab.data.dataset import Annotation, Boxes, ImageDataset, Kind, Sample
from lab.data.preprocess import to_channels
from lab.data.raw import RawSample
from lab.data.streaming import SampleStream
from lab.tasks.detection.augment import boxes_in_view, draw_view, render
from lab.tasks.detection.config import AugmentConfig
from lab.tasks.detection.deploy import to_square

MAX_CACHED_BYTES = 1 << 30
_PROBED = 8


@dataclass(frozen=True)
class TrainView:
    """A decoded sample to {"image" uint8 CHW, "boxes" [M, 4], "classes" [M], "ignore" [M]}, at random by `rng`."""

    size: int
    fill: tuple[int, int, int]
    augment: AugmentConfig
    max_objects: int

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, Any]:
        boxes, (height, width) = boxes_of(sample), sample.image.shape[:2]
        image = to_channels(sample.image, 3)
        view = draw_view(boxes.boxes_K4[~boxes.ignore_K], height, width, self.augment, rng)
        shown = render(image, view, self.size, self.fill)
        return {"image": _chw(shown), **padded(boxes_in_view(boxes, view), self.max_objects, sample.name)}


@dataclass(frozen=True)
class TrainSample:
    """`load(epoch, index)`; random by (seed, epoch, index) alone."""

    dataset: ImageDataset
    view: TrainView
    seed: int

    def __call__(self, epoch: int, index: int) -> dict[str, Any]:
        return self.view(self.dataset[index], stream(self.seed, "view", epoch, index))


@dataclass(frozen=True)
class StreamSample:
    """`load(raw, epoch)` for a sample of a stream; random by (seed, epoch, its index in the stream) alone."""

    stream: SampleStream
    view: TrainView
    seed: int

    def __call__(self, raw: RawSample, epoch: int) -> dict[str, Any]:
        return self.view(self.stream.decode(raw), stream(self.seed, "view", epoch, raw.index))


@dataclass(frozen=True)
class EvalSample:
    """`load(epoch, index)` without randomness; also {"size": [height, width]} of the original image."""

    dataset: ImageDataset
    size: int
    antialias: bool
    max_objects: int

    def __call__(self, epoch: int, index: int) -> dict[str, Any]:
        sample = self.dataset[index]
        boxes, (height, width) = boxes_of(sample), sample.image.shape[:2]
        scale = np.asarray([width, height] * 2, np.float32)
        shares = Boxes(boxes.boxes_K4 / scale, boxes.classes_K, boxes.ignore_K)
        return {
            "image": _chw(to_square(sample.image, self.size, antialias=self.antialias)),
            **padded(shares, self.max_objects, sample.name),
            "size": np.asarray([height, width], np.int64),
        }


def boxes_of(sample: Sample) -> Boxes:
    """Raises DataError when the sample's annotation is of another kind."""
    if not isinstance(sample.label, Boxes):
        raise DataError(f"{sample.name} has no boxes", got=type(sample.label).__name__)
    return sample.label


def padded(boxes: Boxes, max_objects: int, name: str) -> dict[str, np.ndarray]:
    """Arrays of fixed length; class -1 where there is no object. Raises DataError when there are too many."""
    count = len(boxes)
    if count > max_objects:
        raise DataError(
            f"{name} has more objects than a batch has room for",
            got=count,
            expected=f"at most {max_objects}",
            hint="raise data.max_objects",
        )
    boxes_M4, classes_M = np.zeros((max_objects, 4), np.float32), np.full(max_objects, -1, np.int64)
    ignore_M = np.zeros(max_objects, bool)
    boxes_M4[:count], classes_M[:count], ignore_M[:count] = boxes.boxes_K4, boxes.classes_K, boxes.ignore_K
    return {"boxes": boxes_M4, "classes": classes_M, "ignore": ignore_M}


def _chw(image_HWC: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image_HWC.transpose(2, 0, 1))


class CachedDataset:
    """A data set with all its samples decoded, in memory; worker processes share it."""

    def __init__(self, dataset: ImageDataset) -> None:
        self.kind: Kind = dataset.kind
        self.labels, self.source, self._original = dataset.labels, dataset.source, dataset
        self._samples: Sequence[Sample] = [dataset[index] for index in range(len(dataset))]

    @property
    def digest(self) -> str:
        return self._original.digest

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]

    def annotation(self, index: int) -> Annotation:
        return self._samples[index].label


def cached(dataset: ImageDataset, wanted: bool | None) -> ImageDataset:
    """The data set in memory, if `wanted`, or if that is left open (None) and it is small enough."""
    if wanted is None:
        probed = [dataset[index].image.nbytes for index in range(min(_PROBED, len(dataset)))]
        wanted = bool(probed) and float(np.mean(probed)) * len(dataset) <= MAX_CACHED_BYTES
    return CachedDataset(dataset) if wanted else dataset
