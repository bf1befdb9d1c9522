"""Samples as the loaders make them, one by one, in worker processes; what whole batches can do is left to the device.

Shape letters: B images, C channels, R rows of the network's batch (one or more per image), S side of its input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lab.core.errors import DataError
from lab.core.seeding import stream
from lab.data.dataset import IGNORE, ImageDataset, Sample
from lab.data.preprocess import to_channels
from lab.tasks.segmentation.augment import random_view
from lab.tasks.segmentation.config import AugmentConfig, ImageConfig
from lab.tasks.segmentation.deploy import check_mask
from lab.tasks.segmentation.geometry import SegmentationPreprocessing, windows_of

if TYPE_CHECKING:
    from lab.data.raw import RawSample
    from lab.data.streaming import SampleStream


@dataclass(frozen=True)
class TrainView:
    """`view(sample, epoch, index)` to {"target": uint8 [S, S], "image": uint8 [C, S, S]}, always the same."""

    num_classes: int
    image: ImageConfig
    augment: AugmentConfig
    seed: int

    def __call__(self, sample: Sample, epoch: int, index: int) -> dict[str, Any]:
        mask_HW = check_mask(sample, self.num_classes)
        rng = stream(self.seed, "view", epoch, index)
        pixels = to_channels(sample.image, self.image.channels)
        image, mask = random_view(pixels, mask_HW, self.image, self.augment, rng)
        return {"target": np.array(mask, order="C"), "image": np.array(image.transpose(2, 0, 1), order="C")}


@dataclass(frozen=True)
class TrainSample:
    """`load(epoch, index)` of a data set's `TrainView`; index n + N * v is view v of image n of N."""

    dataset: ImageDataset
    view: TrainView

    def __call__(self, epoch: int, index: int) -> dict[str, Any]:
        return self.view(self.dataset[index % len(self.dataset)], epoch, index)


@dataclass(frozen=True)
class EvalSample:
    """`load(epoch, index)` without randomness: the mask and size of one image, and the rows it becomes."""

    dataset: ImageDataset
    preprocessing: SegmentationPreprocessing

    def __call__(self, epoch: int, index: int) -> dict[str, Any]:
        sample = self.dataset[index]
        mask_HW = check_mask(sample, IGNORE)
        rows_RHWC = windows_of(sample.image, self.preprocessing)
        return {
            "target": np.array(mask_HW),
            "size": np.array(mask_HW.shape),
            "image": np.array(rows_RHWC.transpose(0, 3, 1, 2), order="C"),
        }


def weighted_order(
    weights_N: np.ndarray, num_draws: int, seed: int, epoch: int, rank: int = 0, num_ranks: int = 1
) -> np.ndarray:
    """Indices of `TrainSample` that `rank` visits in an epoch: image n comes num_draws * weight / sum times, rounded.

    Systematic sampling, then shuffled; a function of its arguments alone, and equally many for every rank.
    """
    rng = stream(seed, "order", epoch)
    places = (rng.random() + np.arange(num_draws)) / num_draws
    images = np.searchsorted(np.cumsum(weights_N) / weights_N.sum(), places, side="right").clip(max=len(weights_N) - 1)
    # Each time an image comes, it is another view of it.
    views = np.arange(num_draws) - np.searchsorted(images, images)
    order = rng.permutation(images + len(weights_N) * views)
    return order[: num_draws - num_draws % num_ranks][rank::num_ranks].astype(np.int64)


@dataclass(frozen=True)
class StreamSample:
    """`load(raw, epoch)` of a stream's `TrainView`."""

    stream: SampleStream
    view: TrainView

    def __call__(self, raw: RawSample, epoch: int) -> dict[str, Any]:
        return self.view(self.stream.decode(raw), epoch, raw.index)


def collate(samples: Sequence[Mapping[str, Any] | DataError]) -> dict[str, Tensor] | DataError:
    """Evaluation samples as a batch: masks [B, H, W] padded with 255 to the largest, sizes [B, 2], all rows [R, ...].

    Only masks are padded, with what does not count: the network sees each image as if it were alone. The first
    DataError instead if there is one.
    """
    good: list[Mapping[str, Any]] = []
    for sample in samples:
        if isinstance(sample, DataError):
            return sample
        good.append(sample)
    sizes_B2 = np.stack([sample["size"] for sample in good])
    masks = np.full((len(good), *sizes_B2.max(axis=0)), IGNORE, np.uint8)
    for mask, sample in zip(masks, good, strict=True):
        height, width = sample["size"]
        mask[:height, :width] = sample["target"]
    rows = np.concatenate([sample["image"] for sample in good])
    return {"target": torch.from_numpy(masks), "size": torch.from_numpy(sizes_B2), "image": torch.from_numpy(rows)}
