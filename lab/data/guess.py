"""Which format lies at a path, and what its annotations are, told from what is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import cast

from lab.core.errors import DataError
from lab.data.dataset import IGNORE, ImageDataset, Kind, ReadOptions
from lab.data.formats import FORMATS
from lab.data.preprocess import EXTENSIONS

_SUFFIXES = {".rec": "rec", ".tar": "tar", ".lst": "lst", ".manifest": "manifest", ".jsonl": "manifest"}
# In trees of a million files, a look at the first ones has to do.
_MAX_LOOKED_AT = 2000


def guess_format(path: Path) -> str:
    """Name of a format in `FORMATS`. Raises DataError when nothing fits."""
    if path.is_file():
        found = _format_of_file(path)
    elif path.is_dir():
        found = _format_of_folder(path)
    else:
        raise DataError(f"there is nothing at {path}")
    if found is None:
        raise DataError(
            f"the format of {path} cannot be told", expected=", ".join(FORMATS), hint="name it with --format"
        )
    return found


def open_path(
    path: Path, options: ReadOptions, format_name: str | None = None, kind: Kind | None = None
) -> tuple[str, ImageDataset]:
    """(format, data set); format and kind of annotations are guessed where not given.

    Masks without class names may have every value.

    Raises:
        DataError: nothing there can be read.
    """
    name = format_name or guess_format(path)
    kinds = [kind] if kind is not None else _kinds(name, path)
    first_error: DataError | None = None
    for candidate in kinds:
        try:
            dataset = _open(name, path, replace(options, kind=candidate))
            # Records do not say what they hold, but cannot be read as what they are not.
            if len(kinds) > 1:
                dataset.annotation(0)
            return name, dataset
        except DataError as error:
            first_error = first_error or error
    assert first_error is not None
    raise first_error


def _open(name: str, path: Path, options: ReadOptions) -> ImageDataset:
    try:
        return cast(ImageDataset, FORMATS[name](path, options))
    except DataError:
        if options.kind != "mask" or options.expected_classes is not None:
            raise
        return cast(ImageDataset, FORMATS[name](path, replace(options, num_classes=IGNORE)))


def _kinds(name: str, path: Path) -> list[Kind]:
    if name in ("idx", "lst", "image_folder"):
        return ["class"]
    if name == "mask_folder":
        return ["mask"]
    if name == "voc":
        only_masks = (path / "SegmentationClass").is_dir() and not (path / "Annotations").is_dir()
        return ["mask"] if only_masks else ["boxes"]
    if name == "coco":
        from lab.data.coco_listing import holds_masks

        return ["mask"] if holds_masks(path) else ["boxes"]
    return ["boxes"] if name == "sagemaker_json" else ["boxes", "mask", "class"]


def _format_of_file(path: Path) -> str | None:
    if path.suffix.lower() in _SUFFIXES:
        return _SUFFIXES[path.suffix.lower()]
    if path.suffix.lower() == ".json":
        return "coco"
    if path.name.endswith((".tar.gz", ".tgz")):
        return "tar"
    if any(part in path.name for part in ("idx3", "idx4", ".idx")):
        return "idx"
    return None


def _format_of_folder(path: Path) -> str | None:
    if (path / "JPEGImages").is_dir() or (path / "Annotations").is_dir() or _has(path, ".xml"):
        return "voc"
    if len(listings := list(path.glob("*.json"))) == 1 and _is_coco(listings[0]):
        return "coco"
    for folder in (path.with_name(f"{path.name}_annotation"), path / "annotations", path / "masks"):
        if folder.is_dir():
            return "sagemaker_json" if _has(folder, ".json") else "mask_folder"
    if _has(path, ".json"):
        return "sagemaker_json"
    images = {
        file.with_suffix("") for file in _files(path) if file.suffix.lower() in EXTENSIONS and file.suffix != ".png"
    }
    if any(file.suffix == ".png" and file.with_suffix("") in images for file in _files(path)):
        return "mask_folder"
    nested = any(file.suffix.lower() in EXTENSIONS and file.parent != path for file in _files(path))
    return "image_folder" if nested else None


def _has(path: Path, suffix: str) -> bool:
    return any(file.suffix.lower() == suffix for file in _files(path))


def _files(path: Path) -> Iterator[Path]:
    return islice(path.rglob("*.*"), _MAX_LOOKED_AT)


def _is_coco(path: Path) -> bool:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and {"images", "categories"} <= set(document)
