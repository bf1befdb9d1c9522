"""Amazon SageMaker's semantic segmentation: a folder of images, one of PNG masks of the same names (SS-I1..I4).

A mask has one channel, indexed or grey; its values are classes, or numbers that a label map turns into classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np

from lab.artifacts.files import atomic_dir, write_text
from lab.core.errors import DataError
from lab.data.annotated import AnnotatedFiles, Item
from lab.data.dataset import IGNORE, ImageDataset, ReadOptions
from lab.data.decode import decode_mask
from lab.data.draw import mask_png
from lab.data.encoded import read_class_names
from lab.data.groundtruth import load_json
from lab.data.listing import LABELS_FILE, images_by_stem, mask_labels, paired_folders, read_mask, write_images

IMAGES_FOLDER, MASKS_FOLDER = "images", "masks"
Renumber = Callable[[np.ndarray, str], np.ndarray]


def read(path: Path, options: ReadOptions | None = None) -> AnnotatedFiles:
    """Read a folder of images; `options.annotations` is that of the masks, by default PATH_annotation (the names of
    SageMaker's channels), images/ and masks/ below `path`, or `path` itself where images are no PNG.

    `options.label_map` is a JSON file as `label_map` reads it. Class names are `options.labels`, those of labels.txt,
    or numbers below `options.num_classes`, one of which there must be.

    Raises:
        DataError: no such folder, no images, a label map that is not understood, the number of classes is unknown.
            What is wrong with one image or mask is raised when it is asked for.
    """
    options = options or ReadOptions(kind="mask")
    images, masks = paired_folders(path, options.annotations, MASKS_FOLDER)
    labels = mask_labels(options, read_class_names(path / LABELS_FILE), str(path))
    renumber = label_map(options.label_map, len(labels)) if options.label_map else None
    found = images_by_stem(images, () if images != masks else (".png",))
    if not found:
        raise DataError(f"no images below {images}")
    files = [masks / f"{stem}.png" for stem in found]
    items = [
        Item(image, str(file), mask=partial(read_mask, file, renumber))
        for image, file in zip(found.values(), files, strict=True)
    ]
    orphans = sorted(set(masks.rglob("*.png")) - set(files))
    faults = [DataError(f"the mask {file} has no image", expected=f"one below {images}") for file in orphans]
    return AnnotatedFiles(items, "mask", labels, str(path), path, files, faults=faults)


def write(path: Path, dataset: ImageDataset) -> None:
    """Write a folder with images/, copied byte for byte, masks/ as indexed PNG, and labels.txt.

    Raises:
        DataError: the data set has no masks, or a sample is broken.
        StorageError: the disk is full or the folder is not writable.
    """
    if dataset.kind != "mask":
        raise DataError("this format holds masks", got=f"{dataset.source}, of kind '{dataset.kind}'")
    with atomic_dir(path) as folder:
        (folder / MASKS_FOLDER).mkdir()
        for _index, name, raw in write_images(folder / IMAGES_FOLDER, dataset):
            mask_HW = decode_mask(cast(bytes, raw.annotation), raw.name)
            (folder / MASKS_FOLDER / f"{Path(name).stem}.png").write_bytes(mask_png(mask_HW))
        write_text(folder / LABELS_FILE, "".join(f"{label}\n" for label in dataset.labels))


def label_map(path: Path, num_classes: int) -> Renumber:
    """From a mask's values to classes, by a JSON file (SS-I4).

    {"scale": "3"} divides them, rounding down. {"map": {"0": 5, "1": 0}} names for each class the value that stands for
    it. 255 stays `IGNORE` unless it thereby is a class.

    Raises:
        DataError: the file is missing or has neither form, or names a value twice.
    """
    try:
        document = load_json(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"the label map {path} cannot be read", got=error.strerror or error) from error
    try:
        if isinstance(document, dict) and set(document) == {"scale"}:
            scale = int(document["scale"])
            if scale < 1:
                raise ValueError("a scale below 1")
            return partial(_looked_up, _scaled(scale, num_classes))
        if isinstance(document, dict) and set(document) == {"map"}:
            return partial(_looked_up, _mapped(document["map"], num_classes))
    except (TypeError, ValueError, AttributeError) as error:
        raise _not_understood(path, error) from error
    raise _not_understood(path, f"{document!r:.80}")


def _not_understood(path: Path, got: object) -> DataError:
    return DataError(
        f"the label map {path} is not understood", got=got, expected='{"scale": "3"} or {"map": {"0": 5, "1": 0}}'
    )


def _scaled(scale: int, num_classes: int) -> np.ndarray:
    """int64 [256]: the class of each value."""
    classes = np.arange(256) // scale
    # With a scale of 51, say, 255 is the fifth class; with 3 it can only be a hole.
    if classes[IGNORE] >= num_classes:
        classes[IGNORE] = IGNORE
    return classes


def _mapped(table: Mapping[str, int], num_classes: int) -> np.ndarray:
    """int64 [256]: the class of each value, -1 for a value that the map does not name."""
    classes = np.full(256, -1)
    classes[IGNORE] = IGNORE
    taken: set[int] = set()
    for name, value in table.items():
        index, encoded = int(name), int(value)
        if not 0 <= index < num_classes or not 0 <= encoded <= 255 or encoded in taken:
            raise ValueError(f"{name}: {value} (classes 0..{num_classes - 1}, values 0..255, each once)")
        taken.add(encoded)
        classes[encoded] = index
    return classes


def _looked_up(classes: np.ndarray, mask_HW: np.ndarray, name: str) -> np.ndarray:
    found: np.ndarray = classes[mask_HW]
    if (found < 0).any():
        values = sorted(set(mask_HW[found < 0].tolist()))
        raise DataError(f"{name}: values that the label map does not name", got=", ".join(map(str, values[:10])))
    renumbered: np.ndarray = found.astype(np.uint8)
    return renumbered
