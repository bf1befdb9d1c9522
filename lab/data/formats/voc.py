"""Pascal VOC: one XML file of objects per image, masks as indexed PNG, lists of images.

    ROOT/JPEGImages/ID.jpg  Annotations/ID.xml  SegmentationClass/ID.png  ImageSets/{Main,Segmentation}/SUBSET.txt

Corners in the files are the first and last pixel, counted from 1: box (1, 1, 1, 1) is the pixel at the top left. Ours
are exclusive and counted from 0, so that only the first corner changes by 1. "difficult" objects are to be ignored.
Format: The PASCAL Visual Object Classes Challenge 2012 Development Kit, sections 5 to 8.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast
from xml.parsers import expat

import numpy as np

from lab.artifacts.files import atomic_dir, write_text
from lab.core.errors import DataError
from lab.core.tables import nearest
from lab.data.annotated import AnnotatedFiles, Item, Size
from lab.data.dataset import Boxes, ImageDataset, ReadOptions
from lab.data.decode import decode_mask, image_size
from lab.data.draw import mask_png
from lab.data.encoded import read_class_names
from lab.data.listing import LABELS_FILE, images_by_stem, mask_labels, read_mask, write_images

BACKGROUND = "background"
# Lower-case names are those of data sets made with labelling tools, not VOC's.
_ANNOTATIONS, _IMAGES = ("Annotations", "annotations"), ("JPEGImages", "images")


@dataclass(frozen=True)
class VocObjects:
    """What one XML file says: names, corners (ours), difficult ones, and the image's name and size where given."""

    names: tuple[str, ...]
    boxes_K4: np.ndarray
    ignore_K: np.ndarray
    filename: str
    size: Size | None
    errors: tuple[DataError, ...] = ()


def read(path: Path, options: ReadOptions | None = None) -> AnnotatedFiles:
    """Read a VOC root, or a plain folder of images and XML files (`options.kind` boxes).

    `options.subset` names the list below ImageSets; without it every annotated image is read. `options.labels` fix the
    classes; else they are those of labels.txt, or the names found, sorted; masks need names or `num_classes`.
    `options.companion` and `options.annotations` are other folders for images and annotations.

    Raises:
        DataError: no such folder or list, nothing annotated. A broken file raises when it is asked for.
    """
    options = options or ReadOptions(kind="boxes")
    if not path.is_dir():
        raise DataError(f"there is no VOC folder at {path}", expected="a folder with Annotations/ and JPEGImages/")
    return _read_masks(path, options) if options.kind == "mask" else _read_boxes(path, options)


def _read_boxes(path: Path, options: ReadOptions) -> AnnotatedFiles:
    annotations = options.annotations or _folder(path, _ANNOTATIONS)
    images = images_by_stem(options.companion or _folder(path, _IMAGES))
    stems = _subset(path, "Main", options.subset)
    notes: list[str] = []
    if stems is None:
        stems = sorted(file.relative_to(annotations).with_suffix("").as_posix() for file in annotations.rglob("*.xml"))
        bare = len(set(images) - set(stems))
        notes += [f"{bare} images without an XML file are left out"] if bare else []
    if not stems:
        raise DataError(f"no XML files below {annotations}", expected="one per image")
    files = [annotations / f"{stem}.xml" for stem in stems]
    parsed = [_parse_or_error(file) for file in files]
    labels = options.labels or read_class_names(path / LABELS_FILE) or _found_names(parsed, options)
    items = [
        _item(file, images.get(stem), found, labels) for file, stem, found in zip(files, stems, parsed, strict=True)
    ]
    return AnnotatedFiles(items, "boxes", labels, _source(path, options), path, files, notes)


def _read_masks(path: Path, options: ReadOptions) -> AnnotatedFiles:
    folder = options.annotations or path / "SegmentationClass"
    images = images_by_stem(options.companion or _folder(path, _IMAGES))
    stems = _subset(path, "Segmentation", options.subset)
    if stems is None:
        stems = sorted(file.stem for file in folder.glob("*.png"))
    if not stems:
        raise DataError(f"no masks in {folder}", expected="indexed PNG files of the images' names")
    labels = mask_labels(options, read_class_names(path / LABELS_FILE), str(path))
    files = [folder / f"{stem}.png" for stem in stems]
    items = [
        Item(images.get(stem) or _expected_image(path, stem), str(file), mask=partial(read_mask, file))
        for stem, file in zip(stems, files, strict=True)
    ]
    return AnnotatedFiles(items, "mask", labels, _source(path, options), path, files)


def write(path: Path, dataset: ImageDataset, subset: str = "train") -> None:
    """Write a VOC root with labels.txt; images are copied byte for byte, corners rounded to whole pixels.

    Raises:
        DataError: the data set has neither boxes nor masks, or a sample is broken.
        StorageError: the disk is full or the folder is not writable.
    """
    if dataset.kind == "class":
        raise DataError("VOC files hold boxes or masks", got=f"{dataset.source} has classes of whole images")
    masks = dataset.kind == "mask"
    stems: list[str] = []
    with atomic_dir(path) as folder:
        annotations = folder / ("SegmentationClass" if masks else "Annotations")
        annotations.mkdir()
        for _index, name, raw in write_images(folder / "JPEGImages", dataset):
            stem = Path(name).stem
            stems.append(stem)
            if isinstance(raw.annotation, Boxes):
                tree = _annotation(raw.annotation, name, image_size(raw.image, raw.name), dataset.labels)
                ET.ElementTree(tree).write(annotations / f"{stem}.xml", encoding="utf-8")
            else:
                mask_HW = decode_mask(cast(bytes, raw.annotation), raw.name)
                (annotations / f"{stem}.png").write_bytes(mask_png(mask_HW))
        write_text(folder / LABELS_FILE, "".join(f"{label}\n" for label in dataset.labels))
        listing = folder / "ImageSets" / ("Segmentation" if masks else "Main") / f"{subset}.txt"
        write_text(listing, "".join(f"{stem}\n" for stem in stems))


def _annotation(boxes: Boxes, name: str, size: Size, labels: Sequence[str]) -> ET.Element:
    root = ET.Element("annotation")
    ET.SubElement(root, "filename").text = name
    _children(ET.SubElement(root, "size"), {"width": size[1], "height": size[0], "depth": 3})
    for corners_4, index, ignore in zip(boxes.boxes_K4, boxes.classes_K, boxes.ignore_K, strict=True):
        left, top = (int(value) for value in np.rint(corners_4[:2]))
        right, bottom = (int(value) for value in np.rint(corners_4[2:]))
        element = ET.SubElement(root, "object")
        _children(element, {"name": labels[index], "difficult": int(ignore)})
        corners = {"xmin": left + 1, "ymin": top + 1, "xmax": max(right, left + 1), "ymax": max(bottom, top + 1)}
        _children(ET.SubElement(element, "bndbox"), corners)
    ET.indent(root)
    return root


def _children(element: ET.Element, values: Mapping[str, object]) -> None:
    for key, value in values.items():
        ET.SubElement(element, key).text = str(value)


def parse(path: Path) -> VocObjects:
    """One XML file; objects' faults are in `errors`. Raises DataError naming file, line and reason if it is no XML."""
    try:
        root = _tree(path.read_bytes(), path)
    except FileNotFoundError as error:
        raise DataError(f"there is no annotation file at {path}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read", got=error.strerror or error) from error
    if root.tag != "annotation":
        raise DataError(f"{path} is no VOC annotation", got=f"<{root.tag}>", expected="<annotation>")
    names: list[str] = []
    boxes: list[list[float]] = []
    ignore: list[bool] = []
    errors: list[DataError] = []
    for number, element in enumerate(root.iter("object"), 1):
        try:
            # "part" elements of VOC's person layout have boxes of their own, one level deeper.
            xmin, ymin, xmax, ymax = (_number(element, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax"))
            name, difficult = _text(element, "name"), _number(element, "difficult", "0") != 0
        except ValueError as error:
            errors.append(DataError(f"{path}: object {number} is not understood", got=error))
            continue
        names.append(name)
        boxes.append([xmin - 1, ymin - 1, xmax, ymax])
        ignore.append(difficult)
    # Some tools write no "difficult", and zeros for the size; both are common enough to be read.
    corners_K4 = np.asarray(boxes, np.float32).reshape(-1, 4)
    filename = (root.findtext("filename") or "").strip()
    return VocObjects(tuple(names), corners_K4, np.asarray(ignore, bool), filename, _size(root), tuple(errors))


def _tree(content: bytes, path: Path) -> ET.Element:
    """Parsed without document type declarations: annotations need none, and entities can expand without bound."""
    builder = ET.TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data

    def refuse(*_declaration: object) -> None:
        raise DataError(
            f"{path} is refused",
            got=f"a document type declaration in line {parser.CurrentLineNumber}",
            expected="XML without <!DOCTYPE",
        )

    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise DataError(f"{path} is not XML", got=f"{expat.ErrorString(error.code)} in line {error.lineno}") from error
    return builder.close()


def _text(element: ET.Element, key: str) -> str:
    text = (element.findtext(key) or "").strip()
    if not text:
        raise ValueError(f"no <{key}>")
    return text


def _number(element: ET.Element, key: str, default: str = "") -> float:
    text = (element.findtext(key) or default).strip()
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"<{key}> is {text!r}, not a number") from None


def _size(root: ET.Element) -> Size | None:
    """None where the file has none, or zeros, as some tools write them."""
    try:
        height, width = (int(float(root.findtext(f"size/{key}") or 0)) for key in ("height", "width"))
    except ValueError:
        return None
    return (height, width) if height > 0 and width > 0 else None


def _parse_or_error(path: Path) -> VocObjects:
    try:
        return parse(path)
    except DataError as error:
        return VocObjects((), np.zeros((0, 4), np.float32), np.zeros(0, bool), "", None, (error,))


def _item(file: Path, image: Path | None, found: VocObjects, labels: Sequence[str]) -> Item:
    index = {name: number for number, name in enumerate(labels)}
    unknown = [name for name in dict.fromkeys(found.names) if name not in index]
    errors = [*found.errors, *(_unknown_class(file, name, labels) for name in unknown)]
    known_K = np.asarray([name in index for name in found.names], bool)
    boxes = Boxes.of(
        found.boxes_K4[known_K], [index[name] for name in found.names if name in index], found.ignore_K[known_K]
    )
    beside = file.with_name(Path(found.filename).name) if found.filename else None
    chosen = image or (
        beside if beside is not None and beside.is_file() else _expected_image(file.parent.parent, file.stem)
    )
    return Item(chosen, str(file), found.size, boxes, errors=tuple(errors))


def _unknown_class(file: Path, name: str, labels: Sequence[str]) -> DataError:
    close = nearest(name, labels)
    return DataError(
        f"{file}: '{name}' is not a known class",
        expected=", ".join(labels[:20]) + (" ..." if len(labels) > 20 else ""),
        hint=f"did you mean '{close}'?" if close else None,
    )


def _found_names(parsed: Sequence[VocObjects], options: ReadOptions) -> tuple[str, ...]:
    names = tuple(sorted({name for found in parsed for name in found.names}))
    if options.num_classes is not None and options.num_classes != len(names):
        raise DataError(
            "another number of classes than expected",
            got=f"{len(names)}: {', '.join(names[:20])}",
            expected=options.num_classes,
        )
    return names


def _subset(path: Path, kind: str, name: str | None) -> list[str] | None:
    """The images of a list: the first word of each line (in a class's own list, a flag follows)."""
    if name is None:
        return None
    file = path / "ImageSets" / kind / f"{name}.txt"
    try:
        stems = [line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError as error:
        known = sorted(found.stem for found in file.parent.glob("*.txt"))
        raise DataError(f"there is no list at {file}", expected=", ".join(known[:20]) or "ImageSets/...") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as a list of images", got=error) from error
    for stem in stems:
        if ".." in Path(stem).parts or Path(stem).is_absolute():
            raise DataError(f"{file} lists a path that leads out of the folder", got=stem)
    return stems


def _folder(path: Path, names: Sequence[str]) -> Path:
    return next((path / name for name in names if (path / name).is_dir()), path)


def _expected_image(path: Path, stem: str) -> Path:
    return _folder(path, _IMAGES) / f"{stem}.jpg"


def _source(path: Path, options: ReadOptions) -> str:
    return f"{path} ({options.subset})" if options.subset else str(path)
