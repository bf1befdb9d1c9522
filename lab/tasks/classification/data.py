"""The data of a configuration, and the preprocessing that follows from it. Numpy only."""

from __future__ import annotations

from functools import cached_property
from typing import Any, cast

import numpy as np

from lab.core.errors import ConfigError
from lab.data.dataset import ImageDataset, LabelledImages, class_counts
from lab.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, ImagePreprocessing, to_channels
from lab.data.splits import Splits
from lab.tasks.classification.config import ClassificationConfig

# ImageNet's constants as one grey channel: the luma of the three, as in torchvision's grey models.
GREY_MEAN, GREY_STD = (0.449,), (0.226,)


class ClassificationSplits(Splits):
    """`Splits` whose labels fit the loss and the metrics of the configuration."""

    def __init__(self, config: ClassificationConfig) -> None:
        super().__init__(config.data, "class", label_format=config.data.label_format)
        self.config = config

    @cached_property
    def _all_train(self) -> ImageDataset:
        dataset = super()._all_train
        is_multi_label = cast(LabelledImages, dataset).targets().ndim == 2
        if is_multi_label != self.config.loss.multi_label:
            raise ConfigError(
                "loss.multi_label does not fit the labels",
                got=self.config.loss.multi_label,
                expected=f"{is_multi_label} for {dataset.source}",
                hint="several classes per image are multi-hot rows (idx), or .lst with data.label_format",
            )
        return dataset

    def _check(self, labels: tuple[str, ...], source: str) -> None:
        super()._check(labels, source)
        top_k = self.config.metrics.top_k
        if top_k is not None and top_k >= len(labels):
            raise ConfigError(
                "metrics.top_k counts every sample as right", got=top_k, expected=f"less than {len(labels)} classes"
            )

    @property
    def labelled_train(self) -> LabelledImages:
        return cast(LabelledImages, self.train)

    def labelled(self, name: Any) -> LabelledImages:
        return cast(LabelledImages, self.get(name))


def describe(dataset: ImageDataset) -> dict[str, Any]:
    """What the data card says of a split beside its size and digest."""
    return {"class_counts": class_counts(cast(LabelledImages, dataset))}


def preprocessing_of(config: ClassificationConfig, train: LabelledImages | None) -> ImagePreprocessing:
    """The configured preprocessing, with mean and std filled in as ImageConfig.mean says; `train` None is a stream."""
    image = config.image
    if image.mean is not None and image.std is not None:
        mean, std = image.mean, image.std
    else:
        arrays = None if config.model.pretrained or train is None else train.arrays()
        if arrays is not None:
            mean, std = pixel_statistics(to_channels(arrays, image.shape[0]))
        else:
            mean, std = (GREY_MEAN, GREY_STD) if image.shape[0] == 1 else (IMAGENET_MEAN, IMAGENET_STD)
    return ImagePreprocessing(image.shape, image.resize, image.crop, mean, std, image.interpolation)


def pixel_statistics(images_NHWC: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) per channel of uint8 images as 0..1, to four decimals; exact, by counting values."""
    levels = np.arange(256) / 255
    means, deviations = [], []
    for channel in range(images_NHWC.shape[3]):
        counts = np.bincount(images_NHWC[..., channel].ravel(), minlength=256)
        mean = float(counts @ levels / counts.sum())
        variance = float(counts @ (levels - mean) ** 2 / counts.sum())
        means.append(round(mean, 4))
        # A constant channel has no spread to divide by.
        deviations.append(round(variance**0.5, 4) or 1.0)
    return tuple(means), tuple(deviations)
