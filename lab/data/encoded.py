"""A data set over encoded records (RecordIO, tar, manifest) that can be read by index."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from lab.core.errors import DataError
from lab.data.dataset import MAX_HASHED_BYTES, Annotation, Boxes, Kind, ReadOptions, Sample
from lab.data.raw import (
    ClassIds,
    RawAnnotation,
    RawSample,
    RelativeBoxes,
    class_target,
    decode_annotation,
    decode_sample,
)


class Records(Protocol):
    """Encoded samples by index. Picklable, and usable from several processes at once."""

    def __len__(self) -> int: ...

    def raw(self, index: int) -> RawSample: ...

    def annotation(self, index: int) -> RawAnnotation:
        """Without reading the image."""
        ...


class EncodedDataset:
    """`ImageDataset` over records, and `LabelledImages` where these have classes."""

    def __init__(
        self, records: Records, kind: Kind, labels: Sequence[str], source: str, digest: Callable[[], str]
    ) -> None:
        self.records = records
        self.kind: Kind = kind
        self.labels = tuple(labels)
        self.source = source
        self._digest = digest

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        """Raises DataError naming the record when it is damaged."""
        return decode_sample(self.records.raw(index), len(self.labels))

    def raw(self, index: int) -> RawSample:
        """The record as it is stored."""
        return self.records.raw(index)

    def annotation(self, index: int) -> Annotation:
        found = self.records.annotation(index)
        if isinstance(found, int | np.ndarray | ClassIds):
            return class_target(found, len(self.labels), f"{self.source}[{index}]")
        return decode_annotation(self.records.raw(index), len(self.labels))

    @cached_property
    def _targets(self) -> np.ndarray:
        targets = [cast("int | np.ndarray", self.annotation(index)) for index in range(len(self))]
        several = bool(targets) and isinstance(targets[0], np.ndarray)
        return np.asarray(targets, np.float32 if several else np.int64)

    def targets(self) -> np.ndarray:
        """Raises DataError where the annotations are no classes."""
        if self.kind != "class":
            raise DataError(f"{self.source} has no classes per image", got=f"annotations of kind '{self.kind}'")
        return self._targets

    def arrays(self) -> np.ndarray | None:
        return None

    @cached_property
    def digest(self) -> str:
        return self._digest()


def found_labels(records: Records, options: ReadOptions, source: str) -> tuple[str, ...]:
    """Class names from the options, or "0", "1", ... up to the highest class that any record has.

    Raises:
        DataError: masks, whose values would all have to be decoded first; or no record has a class.
    """
    if options.labels is not None:
        return options.labels
    if options.num_classes is not None:
        return tuple(str(index) for index in range(options.num_classes))
    if options.kind == "mask":
        raise DataError(
            f"{source} does not say how many classes its masks have", hint="set data.num_classes or data.class_names"
        )
    num_classes = max((_num_classes(records.annotation(index)) for index in range(len(records))), default=0)
    if not num_classes:
        raise DataError(f"{source} has no annotated images", hint="set data.num_classes or data.class_names")
    return tuple(str(index) for index in range(num_classes))


def _num_classes(annotation: RawAnnotation) -> int:
    if isinstance(annotation, np.ndarray):
        return len(annotation)
    if isinstance(annotation, int):
        return annotation + 1
    if isinstance(annotation, ClassIds):
        return max(annotation.values, default=-1) + 1
    assert isinstance(annotation, Boxes | RelativeBoxes)  # masks were refused
    return int(annotation.classes_K.max(initial=-1)) + 1


def file_digest(paths: Sequence[Path], labels: Sequence[str], extra: Sequence[str] = ()) -> str:
    """SHA-256 of class names and the files' bytes; "listing-..." of names and sizes when they are too large to read."""
    digest = hashlib.sha256(repr((tuple(labels), tuple(extra))).encode())
    sizes = [path.stat().st_size for path in paths]
    whole = sum(sizes) <= MAX_HASHED_BYTES
    for path, size in zip(paths, sizes, strict=True):
        digest.update(f"\0{path.name}\0{size}\0".encode())
        if whole:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest() if whole else f"listing-{digest.hexdigest()}"


def read_class_names(path: Path) -> tuple[str, ...] | None:
    """Names from the file beside an archive that has no place for them; None when there is no such file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as class names", got=error) from error
    return tuple(lines)
