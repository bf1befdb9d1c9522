"""COCO: one JSON file of images, categories and objects with box and outline.

Category ids, in ascending order, become classes 0, 1, ...; "iscrowd" objects are to be ignored. As masks: class 0 is
the background, then the categories; later objects lie over earlier ones, and crowds are `IGNORE`.
Format: https://cocodataset.org/#format-data. Written masks have one run-length object per class and image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from lab.artifacts.files import atomic_dir
from lab.core.errors import DataError
from lab.data import rle
from lab.data.annotated import AnnotatedFiles, Item, Size
from lab.data.coco_listing import (
    IMAGES_FOLDER,
    NO_BACKGROUND,
    CocoListing,
    image_folder,
    image_path,
    json_file,
    load,
    malformed,
    stated_size,
    unknown_category,
)
from lab.data.dataset import IGNORE, Boxes, ImageDataset, ReadOptions
from lab.data.decode import decode_mask, image_size
from lab.data.listing import write_images

BACKGROUND = "background"
# What tools call a category that stands for no object.
_BACKGROUNDS = (BACKGROUND, "_background_", "__background__")
ANNOTATIONS_FILE = "annotations.json"


@dataclass(frozen=True)
class _Shape:
    """The outline of one object: polygons of [V, 2] corners, or run lengths of a mask of `size`."""

    value: int
    polygons: tuple[np.ndarray, ...] = ()
    runs_R: np.ndarray | None = None
    size: Size | None = None


def read(path: Path, options: ReadOptions | None = None) -> AnnotatedFiles:
    """Read a JSON file (or a folder that holds one); images are relative to `options.companion`, by default found by
    the first one's name in the usual places around the file.

    `options.labels` order the categories by name, and an object of another one is an error; for masks the first label
    is the background where it is no category (where it is one, pixels of no object are `IGNORE`).

    Raises:
        DataError: no such file, or not COCO. What is wrong with one image is raised when it is asked for.
    """
    options = options or ReadOptions(kind="boxes")
    path = json_file(path)
    if options.kind == "mask":
        return open_masks(path, options.companion, options)
    return open_boxes(path, options.companion, options)


def open_boxes(path: Path, images: Path | None, options: ReadOptions, *, drop_empty: bool = False) -> AnnotatedFiles:
    """Boxes of `read`; `drop_empty` leaves boxes without area out, of which COCO's own files have a few."""
    listing = load(path)
    labels = _labels(options, tuple(listing.categories.values()))
    index = {number: labels.index(name) for number, name in listing.categories.items() if name in labels}
    root = images or image_folder(listing)
    dropped = 0
    items = []
    for entry in listing.images:
        boxes, errors, num_empty = _boxes(listing, entry, index, drop_empty)
        dropped += num_empty
        items.append(_item(listing, root, entry, errors, boxes=boxes))
    notes = [f"{dropped} boxes without area are left out"] if dropped else []
    return AnnotatedFiles(items, "boxes", labels, str(path), root, [path], notes, listing.faults)


def open_masks(
    path: Path,
    images: Path | None,
    options: ReadOptions,
    *,
    category_ids: Sequence[int] | None = None,
    overlap: Literal["last", "ignore"] = "last",
    crowds: Literal["ignore", "skip"] = "ignore",
    min_pixels: float = 0,
) -> AnnotatedFiles:
    """Masks of `read`. `category_ids`, in the order of the labels after the background, take the place of names.

    `overlap` says what pixels of two objects are, `crowds` what crowds are; images whose objects' stated areas add up
    to `min_pixels` or less are left out.
    """
    listing = load(path)
    labels, values, uncovered = _mask_classes(listing, options, category_ids)
    root = images or image_folder(listing)
    items, left_out = [], 0
    for entry in listing.images:
        shapes, errors, area = _shapes(listing, entry, values, crowds, selected=category_ids is not None)
        if min_pixels and area <= min_pixels:
            left_out += 1
            continue
        draw = partial(draw_shapes, shapes, stated_size(entry), image_path(listing, root, entry)[0], uncovered, overlap)
        items.append(_item(listing, root, entry, errors, mask=draw))
    notes = [f"{left_out} images with at most {min_pixels:g} labelled pixels are left out"] if left_out else []
    return AnnotatedFiles(items, "mask", labels, str(path), root, [path], notes, listing.faults)


def write(path: Path, dataset: ImageDataset) -> None:
    """Write a folder: annotations.json and images/, whose files are copied byte for byte.

    To be ignored: crowds. A data set of masks whose class 0 is no background says so in its "info".

    Raises:
        DataError: the data set has neither boxes nor masks, or a sample is broken.
        StorageError: the disk is full or the folder is not writable.
    """
    if dataset.kind == "class":
        raise DataError("COCO has no classes of whole images", got=dataset.source, expected="boxes or masks")
    has_background = dataset.kind == "mask" and dataset.labels[0] == BACKGROUND
    names = dataset.labels[1:] if has_background else dataset.labels
    document: dict[str, Any] = {
        "info": {} if has_background or dataset.kind == "boxes" else {"description": NO_BACKGROUND},
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
    }
    with atomic_dir(path) as folder:
        for index, name, raw in write_images(folder / IMAGES_FOLDER, dataset):
            height, width = image_size(raw.image, raw.name)
            document["images"].append({"id": index + 1, "file_name": name, "width": width, "height": height})
            if isinstance(raw.annotation, Boxes):
                found = _objects_of_boxes(raw.annotation)
            else:
                mask_HW = decode_mask(cast(bytes, raw.annotation), raw.name)
                found = _objects_of_mask(mask_HW, 0 if has_background else -1)
            for made in found:
                number = len(document["annotations"]) + 1
                document["annotations"].append({"id": number, "image_id": index + 1} | made)
        (folder / ANNOTATIONS_FILE).write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")


def draw_shapes(
    shapes: Sequence[_Shape], size: Size | None, image: Path, uncovered: int, overlap: Literal["last", "ignore"]
) -> np.ndarray:
    """uint8 [H, W]; without a stated size, that of the upright image."""
    height, width = size or image_size(image.read_bytes() if image.is_file() else b"", str(image))
    mask_HW = np.full((height, width), uncovered, np.uint8)
    covered_HW = np.zeros((height, width), bool)
    for shape in shapes:
        inside_HW = _inside(shape, height, width, image)
        np.copyto(mask_HW, np.uint8(shape.value), where=inside_HW)
        if overlap == "ignore":
            mask_HW[inside_HW & covered_HW] = IGNORE
            covered_HW |= inside_HW
    return mask_HW


def _inside(shape: _Shape, height: int, width: int, image: Path) -> np.ndarray:
    if shape.runs_R is not None:
        if shape.size != (height, width):
            raise DataError(
                f"{image.name}: a mask of another size than the image", got=shape.size, expected=(height, width)
            )
        return rle.from_runs(shape.runs_R, height, width)
    parts = [rle.from_polygon(corners_V2, height, width) for corners_V2 in shape.polygons]
    inside_HW: np.ndarray = np.logical_or.reduce(parts)
    return inside_HW


def _labels(options: ReadOptions, found: tuple[str, ...]) -> tuple[str, ...]:
    if options.labels is not None:
        return options.labels
    if options.num_classes not in (None, len(found)):
        raise DataError("another number of categories than expected", got=len(found), expected=options.num_classes)
    return found


def _mask_classes(
    listing: CocoListing, options: ReadOptions, category_ids: Sequence[int] | None
) -> tuple[tuple[str, ...], dict[int, int], int]:
    """(labels, category id -> class, value of pixels of no object)"""
    names = tuple(listing.categories.values())
    named = bool(names) and names[0] in _BACKGROUNDS
    found = (BACKGROUND, *names) if listing.has_background and not named else names
    labels = _labels(options, found)
    if category_ids is not None:
        return labels, {number: value for value, number in enumerate(category_ids, 1)}, 0
    values = {number: labels.index(name) for number, name in listing.categories.items() if name in labels}
    background = labels[0] not in names or labels[0] in _BACKGROUNDS
    return labels, values, 0 if background else IGNORE


def _boxes(
    listing: CocoListing, entry: Mapping[str, Any], index: Mapping[int, int], drop_empty: bool
) -> tuple[Boxes, list[DataError], int]:
    """(boxes, errors, number of boxes left out)"""
    corners, classes, ignore, errors, num_empty = [], [], [], [], 0
    for number, row in listing.objects.get(entry["id"], []):
        try:
            left, top, width, height = (float(value) for value in row["bbox"])
            category, crowd = int(row["category_id"]), bool(int(row.get("iscrowd", 0)))
        except (KeyError, TypeError, ValueError) as error:
            errors.append(malformed(listing, entry, number, row, error))
            continue
        if category not in index:
            errors.append(unknown_category(listing, entry, number, row))
            continue
        if drop_empty and (width <= 0 or height <= 0):
            num_empty += 1
            continue
        corners.append([left, top, left + width, top + height])
        classes.append(index[category])
        ignore.append(crowd)
    return Boxes.of(corners, classes, ignore), errors, num_empty


def _shapes(
    listing: CocoListing, entry: Mapping[str, Any], values: Mapping[int, int], crowds: str, *, selected: bool
) -> tuple[list[_Shape], list[DataError], float]:
    """(shapes, errors, sum of the stated areas); `selected`: objects of other known categories are left out."""
    shapes, errors, area = [], [], 0.0
    for number, row in listing.objects.get(entry["id"], []):
        try:
            category, crowd = int(row["category_id"]), bool(int(row.get("iscrowd", 0)))
            if category not in (listing.categories if selected else values):
                errors.append(unknown_category(listing, entry, number, row))
            elif category in values:
                area += float(row.get("area", 0))
                if not (crowd and crowds == "skip"):
                    shapes.append(_shape(row["segmentation"], IGNORE if crowd else values[category]))
        except (KeyError, TypeError, ValueError) as error:
            errors.append(malformed(listing, entry, number, row, error))
    return shapes, errors, area


def _shape(segmentation: Any, value: int) -> _Shape:
    """Raises ValueError, KeyError or TypeError when it is neither polygons nor run lengths."""
    if isinstance(segmentation, dict):
        height, width = (int(side) for side in segmentation["size"])
        counts = segmentation["counts"]
        runs_R = rle.decompress(counts) if isinstance(counts, str) else np.asarray(counts, np.int64)
        if (runs_R < 0).any() or runs_R.sum() != height * width:
            raise ValueError(f"the runs add up to {int(runs_R.sum())}, not to {width} x {height} pixels")
        return _Shape(value, runs_R=runs_R, size=(height, width))
    polygons = tuple(np.asarray(polygon, np.float64).reshape(-1, 2) for polygon in segmentation)
    if not polygons or any(len(corners_V2) < 3 or not np.isfinite(corners_V2).all() for corners_V2 in polygons):
        raise ValueError("a polygon has fewer than three corners, or one that is no number")
    return _Shape(value, polygons)


def _item(
    listing: CocoListing, root: Path, entry: Mapping[str, Any], errors: Sequence[DataError], **label: Any
) -> Item:
    path, bad = image_path(listing, root, entry)
    where = f"{listing.path} ({entry.get('file_name')})"
    return Item(path, where, stated_size(entry), errors=(*bad, *errors), **label)


def _objects_of_boxes(boxes: Boxes) -> Iterator[dict[str, Any]]:
    for corners_4, index, ignore in zip(
        boxes.boxes_K4.astype(np.float64), boxes.classes_K, boxes.ignore_K, strict=True
    ):
        left, top, right, bottom = corners_4.tolist()
        width, height = right - left, bottom - top
        yield {
            "category_id": int(index) + 1,
            "bbox": [left, top, width, height],
            "area": width * height,
            "iscrowd": int(ignore),
        }


def _objects_of_mask(mask_HW: np.ndarray, background: int) -> Iterator[dict[str, Any]]:
    for value in np.unique(mask_HW).tolist():
        if value == background:
            continue
        inside_HW = mask_HW == value
        rows, columns = np.flatnonzero(inside_HW.any(axis=1)), np.flatnonzero(inside_HW.any(axis=0))
        left, top = int(columns[0]), int(rows[0])
        crowd = value == IGNORE
        yield {
            "category_id": 1 if crowd else value - background,
            "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
            "area": int(inside_HW.sum()),
            "iscrowd": int(crowd),
            "segmentation": {"size": list(mask_HW.shape), "counts": rle.compress(rle.to_runs(inside_HW))},
        }
