"""What a labelled image data set is, and the two ways to hold one: in memory, or as files on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np

from lab.core.errors import DataError
from lab.data.preprocess import load_image

LabelFormat = Literal["class", "multi-hot", "class-id"]
Kind = Literal["class", "boxes", "mask"]
"""What the annotations of a data set are: a class (or several) per image, objects with boxes, a class per pixel."""

IGNORE = 255
"""Value of a mask's pixels that belong to no class: neither trained on nor counted."""

# Reading every byte of a larger data set would cost minutes at each start.
MAX_HASHED_BYTES = 2 << 30


@dataclass(frozen=True)
class Boxes:
    """The K objects of one image.

    `boxes_K4` float32: xmin, ymin, xmax, ymax in pixels from the top left corner of the image, xmax and ymax
    exclusive. `classes_K` int64. `ignore_K` bool: "difficult" (VOC) or "crowd" (COCO) objects, which are neither
    trained on nor counted, whether found or not.
    """

    boxes_K4: np.ndarray
    classes_K: np.ndarray
    ignore_K: np.ndarray

    @classmethod
    def of(cls, boxes: Any, classes: Any, ignore: Any = None) -> Boxes:
        """From nested sequences; no objects are arrays of shape [0, 4] and [0]."""
        boxes_K4 = np.asarray(boxes, np.float32).reshape(-1, 4)
        classes_K = np.asarray(classes, np.int64).reshape(-1)
        ignore_K = np.zeros(len(classes_K), bool) if ignore is None else np.asarray(ignore, bool).reshape(-1)
        return cls(boxes_K4, classes_K, ignore_K)

    def __len__(self) -> int:
        return len(self.classes_K)


Annotation = int | np.ndarray | Boxes
"""class: an index, or a float32 multi-hot vector; boxes: `Boxes`; mask: uint8 [H, W] of class indices and IGNORE."""


@dataclass(frozen=True)
class Sample:
    """One decoded image (uint8 HWC) with its annotation, and the file or record it is."""

    image: np.ndarray
    label: Annotation
    name: str

    input = property(lambda self: self.image, doc="The image, under the name that samples of every task have.")


@dataclass(frozen=True)
class ReadOptions:
    """What a format cannot know from the files alone.

    `labels` are class names (and fix their order and number), `num_classes` only their number. `companion` is a second
    path: the label file of an IDX image file, the folder that image paths in a listing are relative to. `annotations`
    is the folder or file of the annotations where it is not `path` itself; `label_map` a file that renumbers a mask's
    values; `subset` the name of a part (VOC's ImageSets). `kind` is what is asked for where a format holds several.
    """

    labels: tuple[str, ...] | None = None
    num_classes: int | None = None
    companion: Path | None = None
    label_format: LabelFormat = "class"
    kind: Kind = "class"
    annotations: Path | None = None
    label_map: Path | None = None
    subset: str | None = None

    @property
    def expected_classes(self) -> int | None:
        return len(self.labels) if self.labels is not None else self.num_classes


class ImageDataset(Protocol):
    """Annotated images in a fixed order."""

    @property
    def kind(self) -> Kind: ...

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

    def annotation(self, index: int) -> Annotation:
        """The annotation alone, without decoding the image. Raises DataError as `__getitem__` does for it."""
        ...


class LabelledImages(ImageDataset, Protocol):
    """Images with a class, or several, each: annotations small enough to be held all at once."""

    def targets(self) -> np.ndarray:
        """int64 [N], or float32 [N, classes] multi-hot."""
        ...

    def arrays(self) -> np.ndarray | None:
        """All images as uint8 [N, H, W, C] when they are in memory, else None."""
        ...


class ArrayDataset:
    """Images of one size with a class each, all in memory."""

    kind: Kind = "class"

    def __init__(self, images_NHWC: np.ndarray, targets: np.ndarray, labels: Sequence[str], source: str) -> None:
        self._images = images_NHWC
        self._targets = targets
        self.labels = tuple(labels)
        self.source = source

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        return Sample(self._images[index], _label(self._targets, index), f"{self.source}[{index}]")

    def annotation(self, index: int) -> Annotation:
        return _label(self._targets, index)

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
    """Images with a class each, decoded from files when they are asked for."""

    kind: Kind = "class"

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

    def annotation(self, index: int) -> Annotation:
        return _label(self._targets, index)

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
        self.kind = dataset.kind
        self.source = f"{dataset.source} ({name})"

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[int(self.indices[index])]

    def annotation(self, index: int) -> Annotation:
        return self.dataset.annotation(int(self.indices[index]))

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.dataset.digest.encode() + self.indices.astype("<i8").tobytes()).hexdigest()


class LabelledSubset(Subset):
    """A subset that keeps what `LabelledImages` promises."""

    def __init__(self, dataset: LabelledImages, indices: np.ndarray, name: str) -> None:
        super().__init__(dataset, indices, name)
        self._labelled = dataset

    def targets(self) -> np.ndarray:
        targets: np.ndarray = self._labelled.targets()[self.indices]
        return targets

    @cached_property
    def _arrays(self) -> np.ndarray | None:
        arrays = self._labelled.arrays()
        return None if arrays is None else arrays[self.indices]

    def arrays(self) -> np.ndarray | None:
        return self._arrays


def subset(dataset: ImageDataset, indices: np.ndarray, name: str) -> Subset:
    """Some samples of `dataset`; labelled images stay `LabelledImages`."""
    if dataset.kind == "class":
        return LabelledSubset(cast(LabelledImages, dataset), indices, name)
    return Subset(dataset, indices, name)


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
    return subset(dataset, rest, f"without {fraction:g} held out"), subset(dataset, held, f"{fraction:g} held out")


def class_counts(dataset: LabelledImages) -> dict[str, int]:
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
