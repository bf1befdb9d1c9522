"""The training, validation and test data that a configuration names; each split is opened when first asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lab.artifacts.files import sha256_json
from lab.config.data import DataConfig, SplitConfig
from lab.core.errors import ConfigError, DataError
from lab.data.dataset import ImageDataset, Kind, LabelFormat, ReadOptions, Subset, split
from lab.data.formats import FORMATS
from lab.data.resolve import catalog_entry, open_dataset

if TYPE_CHECKING:
    from lab.data.streaming import SampleStream

SplitName = Literal["train", "validation", "test"]


class Splits:
    """The splits of one configuration.

    Where no validation data is given, part of the training data is held out, by `split_seed` alone. With mode stream
    there is no training data set but a `stream`.
    """

    def __init__(self, data: DataConfig, kind: Kind, *, label_format: LabelFormat = "class") -> None:
        self.data = data
        self.kind = kind
        self.label_format = label_format

    @property
    def is_stream(self) -> bool:
        return self.data.mode == "stream"

    @cached_property
    def stream(self) -> SampleStream:
        """The training data of mode stream. Raises DataError when it cannot be opened."""
        from lab.data.streaming import open_stream

        assert self.data.train is not None  # DataConfig checks it
        options = self._options(self.data.train, self.data.class_names)
        found = open_stream(self.data.train.path, self.data.format, options, num_samples=self.data.num_training_samples)
        self._check(found.labels, found.source)
        return found

    @cached_property
    def _all_train(self) -> ImageDataset:
        """Everything given for training, before the validation part is held out."""
        data = self.data
        if data.dataset is not None:
            dataset: ImageDataset = open_dataset(data.dataset, "train", data.root, kind=self.kind)
        else:
            assert data.train is not None  # DataConfig checks it
            dataset = self._read(data.train, data.class_names)
        self._check(dataset.labels, dataset.source)
        return dataset

    def _read(self, part: SplitConfig, labels: tuple[str, ...] | None) -> ImageDataset:
        dataset: ImageDataset = FORMATS[self.data.format](Path(part.path), self._options(part, labels))
        if dataset.kind != self.kind:
            raise DataError(f"{dataset.source} has no annotations of kind '{self.kind}'", got=dataset.kind)
        return dataset

    def _options(self, part: SplitConfig, labels: tuple[str, ...] | None) -> ReadOptions:
        return ReadOptions(
            labels=labels,
            num_classes=self.data.num_classes,
            companion=part.labels if self.data.format == "idx" else part.images,
            label_format=self.label_format,
            kind=self.kind,
            annotations=part.annotations,
            label_map=part.label_map,
            subset=part.subset,
        )

    def _check(self, labels: tuple[str, ...], source: str) -> None:
        if self.data.num_classes not in (None, len(labels)):
            raise ConfigError(
                "data.num_classes does not fit the data",
                got=self.data.num_classes,
                expected=f"{len(labels)} ({source})",
            )

    @cached_property
    def _held_out(self) -> tuple[Subset, Subset]:
        return split(self._all_train, self.data.validation_fraction, self.data.split_seed)

    @cached_property
    def train(self) -> ImageDataset:
        """Raises ConfigError with mode stream, whose samples have no index."""
        if self.is_stream:
            raise ConfigError("the training data is a stream", hint="data.mode: files reads it as a data set")
        return self._all_train if self.data.validation is not None else self._held_out[0]

    @cached_property
    def validation(self) -> ImageDataset:
        part = self.data.validation
        return self._read(part, self.labels) if part is not None else self._held_out[1]

    @property
    def has_test(self) -> bool:
        return self.data.dataset is not None or self.data.test is not None

    def has(self, name: SplitName) -> bool:
        """True when the split exists and can be read by index."""
        return not (name == "test" and not self.has_test) and not (name == "train" and self.is_stream)

    @cached_property
    def test(self) -> ImageDataset:
        """Raises DataError when the configuration names no test data."""
        data = self.data
        if data.dataset is not None:
            return open_dataset(data.dataset, "test", data.root, kind=self.kind)
        if data.test is None:
            raise DataError("the configuration names no test data", hint="set data.test, or use the validation split")
        return self._read(data.test, self.labels)

    @property
    def labels(self) -> tuple[str, ...]:
        return self.stream.labels if self.is_stream else self._all_train.labels

    def get(self, name: SplitName) -> ImageDataset:
        """The split of that name. Raises DataError when it is missing or broken."""
        return {"train": lambda: self.train, "validation": lambda: self.validation, "test": lambda: self.test}[name]()

    @property
    def final(self) -> Literal["validation", "test"]:
        """The split of final figures and pictures: test, or validation where there is no test split."""
        return "test" if self.has_test else "validation"

    def card(self, describe: Callable[[ImageDataset], dict[str, Any]] | None = None) -> dict[str, Any]:
        """Name, licence, sizes and digests of all splits, and what `describe` adds to each; JSON-able."""
        data = self.data
        every: tuple[SplitName, ...] = ("train", "validation", "test")
        names = [name for name in every if self.has(name)]
        splits: dict[str, dict[str, Any]] = {name: _split_card(self.get(name), describe) for name in names}
        if self.is_stream:
            found = self.stream
            splits = {
                "train": {"source": found.source, "num_samples": found.num_samples, "digest": found.digest}
            } | splits
        card: dict[str, Any] = {
            "name": data.dataset or (data.train.path if data.train else ""),
            "source": str(splits["train"]["source"]),
            "digest": sha256_json({name: part["digest"] for name, part in splits.items()}),
            "format": catalog_entry(data.dataset).format if data.dataset else data.format,
            "labels": list(self.labels),
            "splits": splits,
        }
        if data.dataset is not None:
            entry = catalog_entry(data.dataset)
            card |= {"license": entry.license, "homepage": entry.homepage}
        return card


def _split_card(dataset: ImageDataset, describe: Callable[[ImageDataset], dict[str, Any]] | None) -> dict[str, Any]:
    base = {"source": dataset.source, "num_samples": len(dataset), "digest": dataset.digest}
    return base | (describe(dataset) if describe else {})
