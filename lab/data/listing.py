"""Files of a folder by their names, masks by their files: shared by the formats that keep images as files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from lab.core.errors import DataError
from lab.core.progress import track
from lab.data.dataset import ImageDataset, ReadOptions, Subset
from lab.data.decode import decode_mask, suffix_of
from lab.data.preprocess import EXTENSIONS
from lab.data.raw import RawSample, encoded_sample

LABELS_FILE = "labels.txt"
"""Beside folders of images, where there is one: class names in the order of the indices, one per line."""


def images_by_stem(folder: Path, without: Sequence[str] = ()) -> dict[str, Path]:
    """Image files below a folder by their path without suffix, in sorted order; hidden ones are left out, and those
    with the suffixes `without`.

    Raises:
        DataError: two images of the same stem, of which an annotation could mean either.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.suffix.lower() not in EXTENSIONS or path.suffix.lower() in without:
            continue
        if any(part.startswith(".") for part in relative.parts):
            continue
        stem = relative.with_suffix("").as_posix()
        if stem in found:
            raise DataError(f"{path} and {found[stem].name} have the same name but for the suffix")
        found[stem] = path
    return found


def paired_folders(path: Path, annotations: Path | None, name: str) -> tuple[Path, Path]:
    """The folder of images and that of what belongs to them: given, PATH_annotation, `path`/images and `path`/`name`,
    or both in `path`. Raises DataError when one is missing."""
    images = path / "images" if (path / "images").is_dir() else path
    if annotations is None:
        places = [path.with_name(f"{path.name}_annotation"), path / name]
        annotations = next((place for place in places if place.is_dir()), path)
    for folder in (images, annotations):
        if not folder.is_dir():
            raise DataError(f"there is no folder at {folder}")
    return images, annotations


def read_mask(path: Path, renumber: Callable[[np.ndarray, str], np.ndarray] | None = None) -> np.ndarray:
    """A mask file as uint8 [H, W]; `renumber` maps the values in the file to classes. Raises DataError."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"there is no mask at {path}", hint="every image needs a mask of the same name") from error
    except OSError as error:
        raise DataError(f"the mask {path} cannot be read", got=error.strerror or error) from error
    mask_HW = decode_mask(content, str(path))
    return renumber(mask_HW, str(path)) if renumber is not None else mask_HW


def mask_labels(options: ReadOptions, written: tuple[str, ...] | None, source: str) -> tuple[str, ...]:
    """Class names of masks: given, else written beside them, else numbers. Raises DataError when none of these."""
    if options.labels is not None:
        return options.labels
    if written is not None:
        return written
    if options.num_classes is None:
        raise DataError(
            f"{source} does not say how many classes its masks have", hint="set data.num_classes or data.class_names"
        )
    return tuple(str(index) for index in range(options.num_classes))


def file_names(dataset: ImageDataset) -> list[str]:
    """A stem for every sample that no other has: that of its file, behind its number where files share one."""
    stems = [Path(name).stem for name in _names(dataset)]
    repeated = {stem for stem, count in Counter(stem.lower() for stem in stems).items() if count > 1}
    return [f"{index:06d}_{stem}" if stem.lower() in repeated else stem for index, stem in enumerate(stems)]


def _names(dataset: ImageDataset) -> list[str]:
    if isinstance(dataset, Subset):
        names = _names(dataset.dataset)
        return [names[index] for index in dataset.indices]
    paths = getattr(dataset, "paths", None)
    return [str(path) for path in paths] if paths is not None else [f"{index:06d}" for index in range(len(dataset))]


def write_images(folder: Path, dataset: ImageDataset) -> Iterator[tuple[int, str, RawSample]]:
    """Write every image to a file below `folder`, byte for byte where it has one; yields (index, file name, sample).

    Raises:
        DataError: a sample is missing or broken, image or annotation.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for index, stem in track(enumerate(file_names(dataset)), "writing images", len(dataset)):
        raw = encoded_sample(dataset, index)
        known = Path(raw.name).suffix
        suffix = known if known.lower() in EXTENSIONS else f".{suffix_of(raw.image)}"
        name = f"{stem}{suffix}"
        (folder / name).write_bytes(raw.image)
        yield index, name, raw
