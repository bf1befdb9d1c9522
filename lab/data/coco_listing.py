"""A COCO file as it is written: images, categories in the order of their ids, objects by image, and what is amiss."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from lab.core.errors import DataError

IMAGES_FOLDER = "images"
NO_BACKGROUND = "every pixel has a category"
"""In "info": the masks' class 0 is a category too."""


@dataclass(frozen=True)
class CocoListing:
    """`faults` belong to no image; `has_background`: masks have a class 0 that is no category."""

    path: Path
    images: list[dict[str, Any]]
    objects: dict[Any, list[tuple[int, dict[str, Any]]]]
    """image id -> (number in the file, object)"""
    categories: dict[int, str]
    faults: tuple[DataError, ...]
    has_background: bool


def load(path: Path) -> CocoListing:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"there is no COCO file at {path}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON", got=error) from error
    parts = [
        document.get(key) if isinstance(document, dict) else None for key in ("images", "annotations", "categories")
    ]
    if not all(isinstance(part, list) and all(isinstance(row, dict) for row in part) for part in parts):
        raise DataError(
            f"{path} is not a COCO file of objects",
            expected='{"images": [...], "annotations": [...], "categories": [...]}',
        )
    images, annotations, rows = cast("list[list[dict[str, Any]]]", parts)
    try:
        categories = {int(row["id"]): str(row["name"]) for row in sorted(rows, key=lambda row: int(row["id"]))}
        info = document.get("info")
        known = {row["id"]: row for row in images}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: an image or category has no id or name", got=repr(error)) from error
    objects, faults = _by_image(path, annotations, known)
    if len(known) != len(images):
        faults.append(DataError(f"{path}: {len(images) - len(known)} image ids are given more than once"))
    has_background = not (isinstance(info, dict) and info.get("description") == NO_BACKGROUND)
    return CocoListing(path, list(known.values()), objects, categories, tuple(faults), has_background)


def _by_image(
    path: Path, annotations: Sequence[dict[str, Any]], known: Mapping[Any, Any]
) -> tuple[dict[Any, list[tuple[int, dict[str, Any]]]], list[DataError]]:
    # Ids are numbers in COCO itself and text in some tools' files.
    objects: dict[Any, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    faults: list[DataError] = []
    for number, row in enumerate(annotations):
        image_id = row.get("image_id")
        if isinstance(image_id, int | str) and image_id in known:
            objects[image_id].append((number, row))
        else:
            faults.append(DataError(f"{path}: annotation {_id(number, row)} belongs to no image", got=image_id))
    return objects, faults


def json_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.json"))
    if len(found) != 1:
        raise DataError(
            f"{path} does not hold one JSON file",
            got=", ".join(file.name for file in found[:10]) or "none",
            hint="give the file itself",
        )
    return found[0]


def image_folder(listing: CocoListing) -> Path:
    """Where the first image is: beside the file, in images/, or in the NAME of "instances_NAME.json"."""
    here, name = listing.path.parent, listing.path.stem.removeprefix("instances_")
    above = here.parent
    places = [
        here,
        here / IMAGES_FOLDER,
        above / name,
        above / IMAGES_FOLDER / name,
        above / IMAGES_FOLDER,
        here / name,
    ]
    first = str(listing.images[0].get("file_name")) if listing.images else ""
    return next((place for place in places if (place / first).is_file()), here)


def _id(number: int, row: Mapping[str, Any]) -> str:
    return f"{row['id']}" if "id" in row else f"number {number}"


def malformed(
    listing: CocoListing, entry: Mapping[str, Any], number: int, row: Mapping[str, Any], error: Exception
) -> DataError:
    what = f"no {error}" if isinstance(error, KeyError) else str(error)
    return DataError(f"{listing.path} ({entry.get('file_name')}): annotation {_id(number, row)} is malformed", got=what)


def unknown_category(listing: CocoListing, entry: Mapping[str, Any], number: int, row: Mapping[str, Any]) -> DataError:
    return DataError(
        f"{listing.path} ({entry.get('file_name')}): annotation {_id(number, row)} has an unknown category",
        got=listing.categories.get(row["category_id"], row["category_id"]),
    )


def image_path(listing: CocoListing, root: Path, entry: Mapping[str, Any]) -> tuple[Path, list[DataError]]:
    """Where an image is, and what is wrong with its name: then only the last part of it counts."""
    name = entry.get("file_name")
    parts = PurePosixPath(name) if isinstance(name, str) else PurePosixPath()
    if parts.name and not parts.is_absolute() and ".." not in parts.parts:
        return root / parts, []
    what = f"{listing.path} ({name}): an image name that leads out of the folder, or none"
    return root / parts.name, [DataError(what, got=repr(name))]


def stated_size(entry: Mapping[str, Any]) -> tuple[int, int] | None:
    """(height, width), or None where the entry has none."""
    height, width = entry.get("height"), entry.get("width")
    whole = isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0
    return (cast(int, height), cast(int, width)) if whole else None


def holds_masks(path: Path) -> bool:
    """True when the objects have outlines that no box could have been meant by: written by `coco.write` from masks."""
    listing = load(json_file(path))
    rows = [row for objects in listing.objects.values() for _number, row in objects]
    return bool(rows) and all("segmentation" in row and isinstance(row["segmentation"], dict) for row in rows)
