"""What a labelled image data set is, and the two ways to hold one: in memory, or as files on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from lab.core.errors import DataError
from lab.data.preprocess import load_image

LabelFormat = Literal["class", "multi-hot", "class-id"]

# Reading every byte of a larger data set would cost minutes at each start.
MAX_HASHED_BYTES = 2 << 30


@dataclass(frozen=True)
class Sample:
    """One decoded image: uint8 HWC, its class index (or float32 multi-hot vector), and the file or record it is."""

    image: np.ndarray
    label: int | np.ndarray
    name: str


@dataclass(frozen=True)
class ReadOptions:
    """What a format cannot know from the files alone.

    `labels` are class names (and fix their order and number), `num_classes` only their number. `companion` is a second
    path: the label file of an IDX image file, the folder that the paths of a `.lst` file are relative to.
    """

    labels: tuple[str, ...] | None = None
    num_classes: int | None = None
    companion: Path | None = None
    label_format: LabelFormat = "class"

    @property
    def expected_classes(self) -> int | None:
        return len(self.labels) if self.labels is not None else self.num_classes


class ImageDataset(Protocol):
    """Labelled images in a fixed order."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names; a target is an index into them."""
        ...

    @property
    def source(self) -> str:
        """Where it was read from."""
        ...

    @property
    def digest(self) -> str:
        """Hex SHA-256 of images, targets and class names; "listing-..." where only names and sizes were hashed."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def targets(self) -> np.ndarray:
        """int64 [N], or float32 [N, classes] multi-hot."""
        ...

    def arrays(self) -> np.ndarray | None:
        """All images as uint8 [N, H, W, C] when they are in memory, else None."""
        ...


class ArrayDataset:
    """Images of one size, all in memory."""

    def __init__(self, images_NHWC: np.ndarray, targets: np.ndarray, labels: Sequence[str], source: str) -> None:
        self._images = images_NHWC
        self._targets = targets
        self.labels = tuple(labels)
        self.source = source

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        return Sample(self._images[index], _label(self._targets, index), f"{self.source}[{index}]")

    def targets(self) -> np.ndarray:
        return self._targets

    def arrays(self) -> np.ndarray | None:
        return self._images

    @cached_property
    def digest(self) -> str:
        digest = hashlib.sha256(_header(self.labels, self._targets, self._images.shape))
        digest.update(np.ascontiguousarray(self._images).data)
        return digest.hexdigest()


class FileDataset:
    """Images decoded from files when they are asked for."""

    def __init__(
        self, paths: Sequence[Path], targets: np.ndarray, labels: Sequence[str], source: str, root: Path
    ) -> None:
        self.paths = list(paths)
        self._targets = targets
        self.labels = tuple(labels)
        self.source = source
        self.root = root

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        """Raises DataError naming the file when it is missing or damaged."""
        return Sample(load_image(self.paths[index]), _label(self._targets, index), str(self.paths[index]))

    def targets(self) -> np.ndarray:
        return self._targets

    def arrays(self) -> np.ndarray | None:
        return None

    @cached_property
    def digest(self) -> str:
        sizes = [path.stat().st_size if path.is_file() else -1 for path in self.paths]
        whole = sum(sizes) <= MAX_HASHED_BYTES
        digest = hashlib.sha256(_header(self.labels, self._targets, (len(self),)))
        for path, size in zip(self.paths, sizes, strict=True):
            name = path.relative_to(self.root) if path.is_relative_to(self.root) else path
            digest.update(f"\0{name.as_posix()}\0{size}\0".encode())
            if whole and size >= 0:
                digest.update(path.read_bytes())
        return digest.hexdigest() if whole else f"listing-{digest.hexdigest()}"


class Subset:
    """Some samples of another data set, by index."""

    def __init__(self, dataset: ImageDataset, indices: np.ndarray, name: str) -> None:
        self.dataset = dataset
        self.indices = indices
        self.labels = dataset.labels
        self.source = f"{dataset.source} ({name})"

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[int(self.indices[index])]

    def targets(self) -> np.ndarray:
        targets: np.ndarray = self.dataset.targets()[self.indices]
        return targets

    @cached_property
    def _arrays(self) -> np.ndarray | None:
        arrays = self.dataset.arrays()
        return None if arrays is None else arrays[self.indices]

    def arrays(self) -> np.ndarray | None:
        return self._arrays

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.dataset.digest.encode() + self.indices.astype("<i8").tobytes()).hexdigest()


def split(dataset: ImageDataset, fraction: float, seed: int) -> tuple[Subset, Subset]:
    """Split off a random `fraction`: (rest, held out). Depends only on the number of samples, fraction and seed.

    Raises:
        DataError: one of the two parts would be empty.
    """
    total = len(dataset)
    num_held = round(total * fraction)
    if not 0 < num_held < total:
        raise DataError(
            f"{total} samples cannot be split",
            got=f"validation_fraction {fraction}",
            expected="at least one sample on both sides",
        )
    order = np.random.default_rng(seed).permutation(total)
    held, rest = np.sort(order[:num_held]), np.sort(order[num_held:])
    return Subset(dataset, rest, f"without {fraction:g} held out"), Subset(dataset, held, f"{fraction:g} held out")


def class_counts(dataset: ImageDataset) -> dict[str, int]:
    """Samples per class name; a multi-label sample counts for each of its classes."""
    targets = dataset.targets()
    counts = targets.sum(axis=0) if targets.ndim == 2 else np.bincount(targets, minlength=len(dataset.labels))
    return {label: int(count) for label, count in zip(dataset.labels, counts, strict=True)}


def class_names(options: ReadOptions, found_classes: int) -> tuple[str, ...]:
    """The given names, or "0", "1", ... up to the given or found number of classes."""
    if options.labels is not None:
        return options.labels
    return tuple(str(index) for index in range(options.num_classes or found_classes))


def _label(targets: np.ndarray, index: int) -> int | np.ndarray:
    return targets[index] if targets.ndim == 2 else int(targets[index])


def _header(labels: Sequence[str], targets: np.ndarray, shape: tuple[int, ...]) -> bytes:
    kind = "<f4" if targets.ndim == 2 else "<i8"
    return repr((tuple(labels), tuple(shape), tuple(targets.shape))).encode() + targets.astype(kind).tobytes()
