"""A scan of a whole data set: every image and annotation is read, and what is broken or unusual is listed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lab.core.errors import DataError
from lab.core.progress import track
from lab.data.dataset import IGNORE, Annotation, Boxes, ImageDataset, Kind, Sample, Subset
from lab.data.decode import image_geometry, suffix_of
from lab.data.draw import contact_sheet, draw_boxes, overlay_mask, palette

TINY_PX = 4.0
"""A box with a shorter side below this is worth a look: hardly anything can be seen in it."""


@dataclass(frozen=True)
class CheckReport:
    """What `check` found; heights and widths are (smallest, largest) in pixels of the readable images."""

    source: str
    kind: Kind
    num_samples: int
    class_counts: dict[str, int]
    """Images, objects (those to be ignored left out) or pixels per class."""
    broken: tuple[tuple[str, str], ...]
    """(file or record, reason)"""
    notes: tuple[tuple[str, str], ...]
    """(file or record, remark): read as it should be, but unusual."""
    heights: tuple[int, int] | None
    widths: tuple[int, int] | None
    channels: dict[int, int]
    """Channels -> number of images."""
    details: dict[str, Any]
    """Of boxes and masks: how many, how large, how many to be ignored."""

    @property
    def ok(self) -> bool:
        return not self.broken

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "source": self.source,
            "ok": self.ok,
            "kind": self.kind,
            "num_samples": self.num_samples,
            "class_counts": self.class_counts,
            **self.details,
            "broken": [{"name": name, "reason": reason} for name, reason in self.broken],
            "notes": [{"name": name, "remark": remark} for name, remark in self.notes],
            "heights": self.heights,
            "widths": self.widths,
            "channels": {str(count): number for count, number in self.channels.items()},
        }


@dataclass
class _Found:
    broken: list[tuple[str, str]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    shapes: Counter[tuple[int, ...]] = field(default_factory=Counter)
    counts: Counter[int] = field(default_factory=Counter)
    sides: list[float] = field(default_factory=list)
    num_ignored: int = 0
    num_empty: int = 0


def check(dataset: ImageDataset) -> CheckReport:
    """Decode every sample; never raises for a broken one, but lists all that is wrong with it."""
    found = _Found()
    for fault in getattr(dataset, "faults", ()):
        found.broken.append((dataset.source, _reason(fault)))
    found.notes += [(dataset.source, note) for note in getattr(dataset, "notes", ())]
    for index in track(range(len(dataset)), "checking images", len(dataset)):
        _check_one(dataset, index, found)
    channels: Counter[int] = Counter()
    for shape, count in found.shapes.items():
        channels[shape[2]] += count
    return CheckReport(
        source=dataset.source,
        kind=dataset.kind,
        num_samples=len(dataset),
        class_counts={label: found.counts[index] for index, label in enumerate(_labels(dataset, found))},
        broken=tuple(dict.fromkeys(found.broken)),
        notes=tuple(found.notes),
        heights=_range([shape[0] for shape in found.shapes]),
        widths=_range([shape[1] for shape in found.shapes]),
        channels=dict(sorted(channels.items())),
        details=_details(dataset.kind, found),
    )


def sample_sheet(dataset: ImageDataset, num_samples: int = 12) -> np.ndarray | None:
    """A picture of samples spread over the data set, with their annotations; None when no sample is readable."""
    images, captions = [], []
    for index in dict.fromkeys(np.linspace(0, len(dataset) - 1, min(num_samples, len(dataset))).round().astype(int)):
        try:
            sample = dataset[int(index)]
        except DataError:
            continue
        images.append(annotated(sample, dataset.labels))
        names = _class_names(sample.label, dataset.labels)
        captions.append(f"{Path(sample.name).name} {names}".strip())
    return contact_sheet(images, captions) if images else None


def annotated(sample: Sample, labels: Sequence[str]) -> np.ndarray:
    """The image with its boxes or its mask drawn over it; as it is where it has a class."""
    label = sample.label
    if isinstance(label, Boxes):
        colours = palette(len(labels) + 1)[1:][label.classes_K]
        captions = [
            f"({labels[index]})" if ignore else labels[index]
            for index, ignore in zip(label.classes_K, label.ignore_K, strict=True)
        ]
        return draw_boxes(sample.image, label.boxes_K4, captions, colours)
    if isinstance(label, np.ndarray) and label.ndim == 2:
        return overlay_mask(sample.image, label, len(labels))
    return sample.image


def _labels(dataset: ImageDataset, found: _Found) -> Sequence[str]:
    """All class names; of masks whose number of classes nobody told, only those up to the highest value found."""
    unknown = dataset.kind == "mask" and len(dataset.labels) == IGNORE
    return dataset.labels[: max(found.counts, default=-1) + 1] if unknown else dataset.labels


def _check_one(dataset: ImageDataset, index: int, found: _Found) -> None:
    name = _name(dataset, index)
    errors, label = _annotation(dataset, index)
    try:
        image = _image(dataset, index)
        found.shapes[image.shape] += 1
        found.notes += [(name, remark) for remark in _remarks(dataset, index)]
    except DataError as error:
        # An annotation in the image's own record was reported with it already.
        if not errors or _reason(error) not in map(_reason, errors):
            errors.append(error)
    found.broken += [(name, _reason(error)) for error in errors]
    if label is not None:
        _count(label, found)
        found.notes += [(name, remark) for remark in _box_remarks(label)]


def _annotation(dataset: ImageDataset, index: int) -> tuple[list[DataError], Annotation | None]:
    inner, position = _unwrapped(dataset, index)
    list_errors: Callable[[int], list[DataError]] | None = getattr(inner, "errors", None)
    errors = list_errors(position) if list_errors is not None else []
    if errors:
        return errors, None
    try:
        return [], inner.annotation(position)
    except DataError as error:
        return [error], None


def _image(dataset: ImageDataset, index: int) -> np.ndarray:
    inner, position = _unwrapped(dataset, index)
    image_alone: Callable[[int], np.ndarray] | None = getattr(inner, "image", None)
    return image_alone(position) if image_alone is not None else inner[position].image


def _unwrapped(dataset: ImageDataset, index: int) -> tuple[ImageDataset, int]:
    if isinstance(dataset, Subset):
        return _unwrapped(dataset.dataset, int(dataset.indices[index]))
    return dataset, index


def _remarks(dataset: ImageDataset, index: int) -> list[str]:
    """What a reader of images has to decide about this file, and how it was decided."""
    inner, position = _unwrapped(dataset, index)
    paths, raw = getattr(inner, "paths", None), getattr(inner, "raw", None)
    if paths is not None:
        content = Path(paths[position]).read_bytes()
    elif raw is not None:
        content = raw(position).image
    else:
        return []
    remarks = []
    # Pillow opens a 16-bit RGB PNG as 8-bit RGB, so that its header has to be asked.
    orientation = image_geometry(content, _name(dataset, index)).orientation
    if orientation > 1:
        remarks.append(f"EXIF orientation {orientation}: turned upright")
    if suffix_of(content) == "npy":
        return remarks
    with Image.open(BytesIO(content)) as image:
        if image.mode.startswith("I") or (content[:4] == b"\x89PNG" and content[24] == 16):
            remarks.append("16 bits per channel: the upper 8 are used")
        if image.mode == "CMYK":
            remarks.append("CMYK: converted to RGB")
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            remarks.append("transparent: colours are used as if opaque")
    return remarks


def _box_remarks(label: Annotation) -> list[str]:
    if not isinstance(label, Boxes):
        return []
    remarks = []
    counted_K4 = label.boxes_K4[~label.ignore_K]
    short_K = (counted_K4[:, 2:] - counted_K4[:, :2]).min(axis=1, initial=np.inf)
    num_tiny = int((short_K < TINY_PX).sum())
    if num_tiny:
        remarks.append(f"{num_tiny} boxes with a side below {TINY_PX:g} pixels")
    rows = np.concatenate([label.boxes_K4, label.classes_K[:, None]], axis=1)
    num_twice = len(rows) - len(np.unique(rows, axis=0))
    if num_twice:
        remarks.append(f"{num_twice} boxes are given twice")
    return remarks


def _count(label: Annotation, found: _Found) -> None:
    if isinstance(label, Boxes):
        found.counts.update(label.classes_K[~label.ignore_K].tolist())
        found.num_ignored += int(label.ignore_K.sum())
        found.num_empty += len(label) == 0
        found.sides += np.sqrt((label.boxes_K4[:, 2:] - label.boxes_K4[:, :2]).prod(axis=1)).tolist()
    elif isinstance(label, np.ndarray) and label.ndim == 2:
        pixels = np.bincount(label.ravel(), minlength=IGNORE + 1)
        found.num_ignored += int(pixels[IGNORE])
        found.counts.update({value: int(pixels[value]) for value in np.flatnonzero(pixels[:IGNORE]).tolist()})
    elif isinstance(label, np.ndarray):
        found.counts.update(np.flatnonzero(label).tolist())
    else:
        found.counts[label] += 1


def _details(kind: Kind, found: _Found) -> dict[str, Any]:
    if kind == "boxes":
        sides = np.asarray(found.sides)
        sizes = np.percentile(sides, [0, 50, 100]).round(1).tolist() if len(sides) else None
        return {
            "num_objects": len(sides),
            "num_ignored": found.num_ignored,
            "num_images_without_objects": found.num_empty,
            "box_side_px": sizes,
        }
    if kind == "mask":
        total = found.num_ignored + sum(found.counts.values())
        return {"ignored_share": found.num_ignored / total if total else 0.0}
    return {}


def _class_names(label: Annotation, labels: Sequence[str]) -> str:
    if isinstance(label, int):
        return labels[label]
    if isinstance(label, np.ndarray) and label.ndim == 1:
        return ", ".join(labels[index] for index in np.flatnonzero(label).tolist())
    return ""


def _reason(error: DataError) -> str:
    return f"{error.what}: {error.got}" if error.got is not None else error.what


def _name(dataset: ImageDataset, index: int) -> str:
    inner, position = _unwrapped(dataset, index)
    paths = getattr(inner, "paths", None)
    return str(paths[position]) if paths is not None else f"{inner.source}[{position}]"


def _range(values: list[int]) -> tuple[int, int] | None:
    return (min(values), max(values)) if values else None
