"""Objects and class names as Amazon SageMaker writes them in JSON: per-image files (OD-I3), manifests (OD-I4).

    {"image_size": [{"width": 500, "height": 400, "depth": 3}],
     "annotations": [{"class_id": 0, "left": 111, "top": 134, "width": 61, "height": 128}],
     "categories": [{"class_id": 0, "name": "dog"}]}

Pixels from the top left corner. "difficult": 1 in an annotation is our addition, for objects that do not count.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lab.core.errors import DataError
from lab.data.dataset import Boxes


def load_json(text: str | bytes, name: str) -> Any:
    """Raises DataError when the text is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        shown = text[:60]
        raise DataError(f"{name} is not JSON", got=f"{shown!r} ({error})") from error


def boxes_from(document: Any, name: str) -> Boxes:
    """The objects of a document with "annotations". Raises DataError naming the one that is not understood."""
    rows = document.get("annotations") if isinstance(document, Mapping) else None
    if not isinstance(rows, list):
        raise DataError(f"{name} has no list of annotations", expected='{"annotations": [{"class_id": 0, ...}]}')
    boxes, classes, ignore = [], [], []
    for number, row in enumerate(rows):
        try:
            left, top, width, height = (float(row[key]) for key in ("left", "top", "width", "height"))
            classes.append(int(row["class_id"]))
            ignore.append(bool(int(row.get("difficult", 0))))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{name}: annotation {number} is not understood",
                got=f"{json.dumps(row)[:120]} ({type(error).__name__}: {error})",
                expected='{"class_id", "left", "top", "width", "height"}',
            ) from error
        boxes.append([left, top, left + width, top + height])
    return Boxes.of(boxes, classes, ignore)


def size_of(document: Any, name: str) -> tuple[int, int] | None:
    """(height, width) of the image that the document was made for; None where it has no "image_size".

    Raises:
        DataError: the size is not understood.
    """
    rows = document.get("image_size") if isinstance(document, Mapping) else None
    if not rows:
        return None
    try:
        return int(rows[0]["height"]), int(rows[0]["width"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(
            f"{name}: the image size is not understood",
            got=json.dumps(rows)[:80],
            expected='[{"width": 500, "height": 400, "depth": 3}]',
        ) from error


def boxes_to(boxes: Boxes, size: tuple[int, int]) -> dict[str, Any]:
    """The objects of an image of `size` (height, width), JSON-able; whole numbers where the corners are whole."""
    rows: list[dict[str, Any]] = []
    for box_4, index, ignore in zip(boxes.boxes_K4.tolist(), boxes.classes_K, boxes.ignore_K, strict=True):
        xmin, ymin, xmax, ymax = box_4
        row = {"class_id": int(index), "left": xmin, "top": ymin, "width": xmax - xmin, "height": ymax - ymin}
        row = {key: int(value) if float(value).is_integer() else value for key, value in row.items()}
        rows.append(row | ({"difficult": 1} if ignore else {}))
    return {"image_size": [{"width": size[1], "height": size[0], "depth": 3}], "annotations": rows}


def categories_of(document: Any, name: str) -> dict[int, str]:
    """Class index -> name, from "categories"; empty where the document has none. Raises DataError."""
    rows = document.get("categories", []) if isinstance(document, Mapping) else []
    try:
        return {int(row["class_id"]): str(row["name"]) for row in rows}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{name}: the categories are not understood", got=error, expected='[{"class_id", "name"}]'
        ) from error


def categories_to(labels: Sequence[str]) -> list[dict[str, Any]]:
    """All class names, JSON-able."""
    return [{"class_id": index, "name": label} for index, label in enumerate(labels)]


def names_to_labels(names: Mapping[int, str], num_classes: int) -> tuple[str, ...]:
    """Names in the order of the indices; an index without a name is its own."""
    highest = max(names, default=-1) + 1
    return tuple(names.get(index, str(index)) for index in range(max(highest, num_classes)))
