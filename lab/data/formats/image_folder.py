"""Image folder: one folder per class below the root, images at any depth below it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lab.artifacts.files import atomic_dir
from lab.core.errors import DataError
from lab.core.tables import nearest
from lab.data.dataset import FileDataset, ImageDataset, ReadOptions
from lab.data.listing import write_images
from lab.data.preprocess import EXTENSIONS


def read(path: Path, options: ReadOptions | None = None) -> FileDataset:
    """Class names are the folders' names in sorted order, or `options.labels` in theirs.

    Extensions count in upper and lower case; hidden files and folders and other files are left out.

    Raises:
        DataError: no such folder, no class folders, a class without images, or a folder that is no known class.
    """
    options = options or ReadOptions()
    if not path.is_dir():
        raise DataError(f"there is no image folder at {path}", expected=f"{path}/CLASS/IMAGE.jpg")
    found = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    labels = _labels(path, found, options)
    paths: list[Path] = []
    targets: list[int] = []
    for index, label in enumerate(labels):
        images = _images_below(path / label) if label in found else []
        # A validation folder (labels given by training) may lack a class; a training folder may not.
        if not images and options.labels is None:
            raise DataError(f"the class folder {path / label} has no images", expected=", ".join(EXTENSIONS))
        paths += images
        targets += [index] * len(images)
    if not paths:
        raise DataError(f"no images below {path}", expected=", ".join(EXTENSIONS))
    return FileDataset(paths, np.asarray(targets, np.int64), labels, str(path), root=path)


def write(path: Path, dataset: ImageDataset) -> None:
    """Write CLASS/IMAGE for every sample; image files keep their bytes.

    Raises:
        DataError: the samples have no single class, or a class name cannot be the name of a folder.
        StorageError: the disk is full or the folder is not writable.
    """
    for label in dataset.labels:
        if "/" in label or "\\" in label or label.startswith(".") or not label:
            raise DataError("a folder cannot have this class's name", got=label, hint="give other names: --classes")
    with atomic_dir(path) as folder:
        for label in dataset.labels:
            (folder / label).mkdir()
        for _index, name, raw in write_images(folder, dataset):
            if not isinstance(raw.annotation, int):
                raise DataError(f"{raw.name} has no single class", hint="an image folder holds one class per image")
            (folder / name).replace(folder / dataset.labels[raw.annotation] / name)


def _labels(path: Path, found: list[str], options: ReadOptions) -> tuple[str, ...]:
    if not found:
        raise DataError(f"{path} has no class folders", expected=f"{path}/CLASS/IMAGE.jpg")
    if options.labels is not None:
        unknown = [name for name in found if name not in options.labels]
        if unknown:
            close = nearest(unknown[0], options.labels)
            raise DataError(
                f"{path / unknown[0]} is not a known class",
                got=", ".join(unknown[:5]),
                expected=", ".join(options.labels[:20]) + (" ..." if len(options.labels) > 20 else ""),
                hint=f"did you mean '{close}'?"
                if close
                else "training and validation folders must have the same classes",
            )
        return options.labels
    if options.num_classes is not None and options.num_classes != len(found):
        raise DataError(
            f"{path} has another number of classes", got=f"{len(found)} folders", expected=f"{options.num_classes}"
        )
    return tuple(found)


def _images_below(folder: Path) -> list[Path]:
    """Sorted by relative path, so that the order is the same on every file system."""
    found = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in EXTENSIONS
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    ]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())
