"""Amazon SageMaker's object detection with images as files: one JSON file of objects per image (OD-I2, OD-I3).

The annotation of IMAGES/a/b.jpg is ANNOTATIONS/a/b.json; lab.data.groundtruth has its contents.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.artifacts.files import atomic_dir, write_text
from lab.core.errors import DataError
from lab.data.annotated import AnnotatedFiles, Item, Size
from lab.data.dataset import Boxes, ImageDataset, ReadOptions
from lab.data.decode import image_size
from lab.data.encoded import read_class_names
from lab.data.groundtruth import boxes_from, boxes_to, categories_of, categories_to, load_json, names_to_labels
from lab.data.listing import LABELS_FILE, images_by_stem, paired_folders, write_images

IMAGES_FOLDER, ANNOTATIONS_FOLDER = "images", "annotations"


def read(path: Path, options: ReadOptions | None = None) -> AnnotatedFiles:
    """Read a folder of images; `options.annotations` is that of the .json files, by default PATH_annotation (the names
    of SageMaker's channels), the folder images/ and annotations/ below `path`, or `path` itself.

    Class names are `options.labels`, those of labels.txt, or the files' own "categories".

    Raises:
        DataError: no such folder, no images. What is wrong with one image or file is raised when it is asked for.
    """
    options = options or ReadOptions(kind="boxes")
    images, annotations = paired_folders(path, options.annotations, ANNOTATIONS_FOLDER)
    found = images_by_stem(images)
    if not found:
        raise DataError(f"no images below {images}")
    files = {stem: annotations / f"{stem}.json" for stem in found}
    names: dict[int, str] = {}
    items = [_item(image, files[stem], names) for stem, image in found.items()]
    highest = max((int(item.boxes.classes_K.max(initial=-1)) for item in items if item.boxes is not None), default=-1)
    labels = options.labels or read_class_names(path / LABELS_FILE)
    if labels is None:
        labels = names_to_labels(names, options.num_classes if options.num_classes is not None else highest + 1)
    orphans = sorted(set(_stems(annotations)) - set(found))
    faults = [DataError(f"{annotations / stem}.json has no image", expected=f"one below {images}") for stem in orphans]
    return AnnotatedFiles(items, "boxes", labels, str(path), path, list(files.values()), faults=faults)


def write(path: Path, dataset: ImageDataset) -> None:
    """Write a folder with images/, copied byte for byte, annotations/ and labels.txt.

    To be ignored: "difficult": 1, which SageMaker does not know.

    Raises:
        DataError: the data set has no boxes, or a sample is broken.
        StorageError: the disk is full or the folder is not writable.
    """
    if dataset.kind != "boxes":
        raise DataError("this format holds boxes", got=f"{dataset.source}, of kind '{dataset.kind}'")
    with atomic_dir(path) as folder:
        (folder / ANNOTATIONS_FOLDER).mkdir()
        for _index, name, raw in write_images(folder / IMAGES_FOLDER, dataset):
            assert isinstance(raw.annotation, Boxes)
            objects = boxes_to(raw.annotation, image_size(raw.image, raw.name))
            document = {"file": name} | objects | {"categories": categories_to(dataset.labels)}
            target = folder / ANNOTATIONS_FOLDER / f"{Path(name).stem}.json"
            target.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
        write_text(folder / LABELS_FILE, "".join(f"{label}\n" for label in dataset.labels))


def _item(image: Path, file: Path, names: dict[int, str]) -> Item:
    """The annotation of one image; its categories are added to `names`."""
    try:
        document = load_json(file.read_bytes(), str(file))
        boxes = boxes_from(document, str(file))
        categories = categories_of(document, str(file))
        size = _stated_size(document, file)
    except FileNotFoundError:
        return Item(image, str(file), errors=(DataError(f"there is no annotation file at {file}", got=str(image)),))
    except OSError as error:
        return Item(image, str(file), errors=(DataError(f"{file} cannot be read", got=error.strerror or error),))
    except DataError as error:
        return Item(image, str(file), errors=(error,))
    clash = next((number for number, name in categories.items() if names.setdefault(number, name) != name), None)
    if clash is None:
        return Item(image, str(file), size, boxes)
    other = DataError(f"{file}: class {clash} has another name", got=categories[clash], expected=names[clash])
    return Item(image, str(file), size, boxes, errors=(other,))


def _stated_size(document: Mapping[str, Any], file: Path) -> Size | None:
    """None where there is none. Raises DataError when it is not understood."""
    rows = document.get("image_size")
    if not rows:
        return None
    try:
        return int(rows[0]["height"]), int(rows[0]["width"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(
            f"{file}: the image size is not understood",
            got=json.dumps(rows)[:80],
            expected='[{"width": 500, "height": 400, "depth": 3}]',
        ) from error


def _stems(folder: Path) -> list[str]:
    return [file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.json")]
