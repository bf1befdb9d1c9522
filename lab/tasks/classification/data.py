"""The splits a configuration names, and the preprocessing that follows from them. Numpy only."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

import numpy as np

from lab.artifacts.files import sha256_json
from lab.core.errors import ConfigError, DataError
from lab.data.dataset import ImageDataset, ReadOptions, Subset, class_counts, split
from lab.data.formats import FORMATS
from lab.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, ImagePreprocessing, to_channels
from lab.data.resolve import catalog_entry, open_dataset
from lab.tasks.classification.config import ClassificationConfig, SplitConfig

SplitName = Literal["train", "validation", "test"]

# ImageNet's constants as one grey channel: the luma of the three, as in torchvision's grey models.
GREY_MEAN, GREY_STD = (0.449,), (0.226,)


class Splits:
    """Training, validation and test data of a configuration; each is opened when first asked for."""

    def __init__(self, config: ClassificationConfig) -> None:
        self.config = config

    @cached_property
    def _all_train(self) -> ImageDataset:
        """Everything given for training, before the validation part is held out."""
        data = self.config.data
        if data.dataset is not None:
            dataset: ImageDataset = open_dataset(data.dataset, "train", data.root)
        else:
            assert data.train is not None  # DataConfig checks it
            dataset = self._read(data.train, data.class_names)
        self._check(dataset)
        return dataset

    def _read(self, part: SplitConfig, labels: tuple[str, ...] | None) -> ImageDataset:
        data = self.config.data
        companion = part.labels if data.format == "idx" else part.images
        options = ReadOptions(
            labels=labels, num_classes=data.num_classes, companion=companion, label_format=data.label_format
        )
        dataset: ImageDataset = FORMATS[data.format](part.path, options)
        return dataset

    def _check(self, dataset: ImageDataset) -> None:
        data, num_classes = self.config.data, len(dataset.labels)
        if data.num_classes not in (None, num_classes):
            raise ConfigError(
                "data.num_classes does not fit the data",
                got=data.num_classes,
                expected=f"{num_classes} ({dataset.source})",
            )
        is_multi_label = dataset.targets().ndim == 2
        if is_multi_label != self.config.loss.multi_label:
            raise ConfigError(
                "loss.multi_label does not fit the labels",
                got=self.config.loss.multi_label,
                expected=f"{is_multi_label} for {dataset.source}",
                hint="several classes per image are multi-hot rows (idx), or .lst with data.label_format",
            )
        top_k = self.config.metrics.top_k
        if top_k is not None and top_k >= num_classes:
            raise ConfigError(
                "metrics.top_k counts every sample as right", got=top_k, expected=f"less than {num_classes} classes"
            )

    @cached_property
    def _held_out(self) -> tuple[Subset, Subset]:
        return split(self._all_train, self.config.data.validation_fraction, self.config.data.split_seed)

    @cached_property
    def train(self) -> ImageDataset:
        return self._all_train if self.config.data.validation is not None else self._held_out[0]

    @cached_property
    def validation(self) -> ImageDataset:
        part = self.config.data.validation
        return self._read(part, self.labels) if part is not None else self._held_out[1]

    @property
    def has_test(self) -> bool:
        return self.config.data.dataset is not None or self.config.data.test is not None

    @cached_property
    def test(self) -> ImageDataset:
        """Raises DataError when the configuration names no test data."""
        data = self.config.data
        if data.dataset is not None:
            return open_dataset(data.dataset, "test", data.root)
        if data.test is None:
            raise DataError("the configuration names no test data", hint="set data.test, or use the validation split")
        return self._read(data.test, self.labels)

    @property
    def labels(self) -> tuple[str, ...]:
        return self._all_train.labels

    def get(self, name: SplitName) -> ImageDataset:
        """The split of that name. Raises DataError when it is missing or broken."""
        return {"train": lambda: self.train, "validation": lambda: self.validation, "test": lambda: self.test}[name]()

    def card(self) -> dict[str, Any]:
        """Name, licence, sizes, class counts and digests of all splits; JSON-able."""
        data = self.config.data
        names: list[SplitName] = ["train", "validation", "test"] if self.has_test else ["train", "validation"]
        splits = {name: _split_card(self.get(name)) for name in names}
        card: dict[str, Any] = {
            "name": data.dataset or str(data.train.path if data.train else ""),
            "source": self._all_train.source,
            "digest": sha256_json({name: split["digest"] for name, split in splits.items()}),
            "format": "idx" if data.dataset else data.format,
            "labels": list(self.labels),
            "splits": splits,
        }
        if data.dataset is not None:
            entry = catalog_entry(data.dataset)
            card |= {"license": entry.license, "homepage": entry.homepage}
        return card


def _split_card(dataset: ImageDataset) -> dict[str, Any]:
    return {
        "source": dataset.source,
        "num_samples": len(dataset),
        "digest": dataset.digest,
        "class_counts": class_counts(dataset),
    }


def preprocessing_of(config: ClassificationConfig, train: ImageDataset) -> ImagePreprocessing:
    """The configured preprocessing, with mean and std filled in as ImageConfig.mean says."""
    image = config.image
    if image.mean is not None and image.std is not None:
        mean, std = image.mean, image.std
    else:
        arrays = None if config.model.pretrained else train.arrays()
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
