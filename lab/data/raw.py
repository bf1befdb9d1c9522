"""Samples as they lie in archives and manifests: encoded image, annotation as written; decoded by whoever needs them.

Encoded bytes are what formats exchange (nothing is compressed twice) and what workers receive from a stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image

from lab.core.errors import DataError
from lab.data.dataset import Annotation, Boxes, FileDataset, ImageDataset, ReadOptions, Sample, Subset
from lab.data.decode import decode, decode_mask, image_geometry
from lab.data.upright import is_turned, turn_boxes, turn_mask

# A box may reach this far out of the image (rounding, 1-based corners) and is clipped; further out it is refused.
MAX_OVERHANG_PX = 2.0


@dataclass(frozen=True)
class RelativeBoxes:
    """`Boxes` whose corners are 0..1 of the image's width and height, as RecordIO has them."""

    boxes_K4: np.ndarray
    classes_K: np.ndarray
    ignore_K: np.ndarray


@dataclass(frozen=True)
class ClassIds:
    """Indices of all classes that are present (`label_format` class-id)."""

    values: tuple[int, ...]


RawAnnotation = int | np.ndarray | ClassIds | Boxes | RelativeBoxes | bytes
"""As `Annotation`, but boxes may be relative and a mask is an encoded file."""


@dataclass(frozen=True)
class RawSample:
    """One sample before decoding; `index` tells it apart from all others of its data set or stream.

    `size` (height, width) is that of the image for which boxes were made, where they say so.
    """

    image: bytes
    annotation: RawAnnotation
    name: str
    index: int
    size: tuple[int, int] | None = None


def decode_sample(raw: RawSample, num_classes: int | None = None) -> Sample:
    """Decode image and annotation. Raises DataError naming the sample, as `decode_annotation` and `decode` do."""
    return Sample(decode(raw.image, raw.name), decode_annotation(raw, num_classes), raw.name)


def decode_annotation(raw: RawSample, num_classes: int | None = None) -> Annotation:
    """The annotation in pixels of the upright image, without decoding the image.

    Raises:
        DataError: a class out of range, a box without area or outside the image, a mask of another size or damaged.
    """
    annotation = raw.annotation
    if isinstance(annotation, int | np.ndarray | ClassIds):
        return class_target(annotation, num_classes, raw.name)
    geometry = image_geometry(raw.image, raw.name)
    if isinstance(annotation, bytes):
        mask_HW = decode_mask(annotation, f"{raw.name} (mask)")
        # Where the sizes fit neither way, the check says so.
        if mask_HW.shape == geometry.stored != geometry.size:
            mask_HW = turn_mask(mask_HW, geometry.orientation)
        return check_mask(mask_HW, geometry.size, num_classes, raw.name)
    if isinstance(annotation, RelativeBoxes):
        height, width = geometry.size
        boxes_K4 = annotation.boxes_K4.astype(np.float64) * np.array([width, height, width, height])
        annotation = Boxes(boxes_K4.astype(np.float32), annotation.classes_K, annotation.ignore_K)
    if is_turned(raw.size, geometry, raw.name):
        annotation = turn_boxes(annotation, geometry)
    return check_boxes(annotation, geometry.size, num_classes, raw.name)


def class_target(annotation: int | np.ndarray | ClassIds, num_classes: int | None, name: str) -> int | np.ndarray:
    """A class index, or float32 multi-hot. Raises DataError for a class out of range."""
    if isinstance(annotation, np.ndarray):
        if num_classes is not None and len(annotation) != num_classes:
            raise DataError(f"{name}: not a multi-hot label", got=len(annotation), expected=f"{num_classes} values")
        return annotation
    values = annotation.values if isinstance(annotation, ClassIds) else (annotation,)
    _check_classes(np.asarray(values, np.int64), num_classes, name)
    if isinstance(annotation, int):
        return annotation
    if num_classes is None:
        raise DataError("class ids need the number of classes", hint="set data.num_classes or data.class_names")
    hot = np.zeros(num_classes, np.float32)
    hot[list(values)] = 1.0
    return hot


def check_boxes(boxes: Boxes, size: tuple[int, int], num_classes: int | None, name: str) -> Boxes:
    """Boxes clipped to the image of `size` (height, width) when they hang out by rounding only. Raises DataError."""
    _check_classes(boxes.classes_K, num_classes, name)
    height, width = size
    limit_4 = np.array([width, height, width, height], np.float32)
    clipped_K4 = np.clip(boxes.boxes_K4, 0, limit_4)
    outside_K = (np.abs(clipped_K4 - boxes.boxes_K4) > MAX_OVERHANG_PX).any(axis=1)
    finite_K = np.isfinite(boxes.boxes_K4).all(axis=1)
    solid_K = (clipped_K4[:, 2:] > clipped_K4[:, :2]).all(axis=1)
    for bad_K, what in ((~finite_K | outside_K, "lies outside the image"), (~solid_K, "has no area")):
        if bad_K.any():
            first = int(np.flatnonzero(bad_K)[0])
            raise DataError(
                f"{name}: box {first} {what}",
                got=f"xmin, ymin, xmax, ymax = {[round(float(value), 2) for value in boxes.boxes_K4[first]]}",
                expected=f"xmin < xmax and ymin < ymax within {width} x {height} (width x height)",
            )
    return Boxes(clipped_K4, boxes.classes_K, boxes.ignore_K)


def check_mask(mask_HW: np.ndarray, size: tuple[int, int], num_classes: int | None, name: str) -> np.ndarray:
    """Raises DataError when the mask has another size than the image, or a value that is neither class nor 255."""
    if mask_HW.shape != size:
        raise DataError(
            f"{name}: the mask has another size than the image",
            got=f"{mask_HW.shape[0]} x {mask_HW.shape[1]} (height x width)",
            expected=f"{size[0]} x {size[1]}",
        )
    if num_classes is not None:
        values = np.unique(mask_HW)
        _check_classes(values[values != 255].astype(np.int64), num_classes, f"{name} (mask)")
    return mask_HW


def _check_classes(classes_K: np.ndarray, num_classes: int | None, name: str) -> None:
    bad = (classes_K < 0) | (classes_K >= (num_classes if num_classes is not None else np.iinfo(np.int64).max))
    if bad.any():
        expected = f"0..{num_classes - 1}" if num_classes is not None else "0 or more"
        raise DataError(f"{name}: class index out of range", got=int(classes_K[bad][0]), expected=expected)


def class_annotation(values: Sequence[float], options: ReadOptions, name: str) -> int | np.ndarray | ClassIds:
    """The label of one image from the numbers written for it, by `options.label_format`. Raises DataError."""
    numbers = np.asarray(values, np.float64).reshape(-1)
    if not np.array_equal(numbers, np.rint(numbers)):
        raise DataError(f"{name}: the label is not a whole number", got=[float(value) for value in numbers[:10]])
    if options.label_format == "multi-hot":
        if not len(numbers) or not np.isin(numbers, (0, 1)).all():
            raise DataError(f"{name}: not a multi-hot label", got=numbers[:10].tolist(), expected="zeros and ones")
        return numbers.astype(np.float32)
    if options.label_format == "class-id":
        return ClassIds(tuple(int(value) for value in numbers))
    if len(numbers) != 1:
        raise DataError(
            f"{name}: more or fewer than one label",
            got=numbers[:10].tolist(),
            expected="one class index",
            hint="several labels per image need data.label_format multi-hot or class-id; boxes a detection task",
        )
    return int(numbers[0])


def raw_sample(dataset: ImageDataset, index: int) -> RawSample | None:
    """The encoded sample where the data set has one; None where it only has pixels (arrays in memory)."""
    if isinstance(dataset, Subset):
        return raw_sample(dataset.dataset, int(dataset.indices[index]))
    raw = getattr(dataset, "raw", None)
    if raw is not None:
        return cast(RawSample, raw(index))
    if isinstance(dataset, FileDataset):
        path = dataset.paths[index]
        return RawSample(read_bytes(path), cast(RawAnnotation, dataset.annotation(index)), str(path), index)
    return None


def encoded_sample(dataset: ImageDataset, index: int) -> RawSample:
    """`raw_sample`, with the annotation checked and in pixels (a mask as PNG), whatever the data set holds.

    An image that lies in a file keeps its bytes; one in memory is stored without loss. Raises DataError.
    """
    raw = raw_sample(dataset, index)
    paths = getattr(dataset, "paths", None)
    if raw is not None:
        image, name = raw.image, raw.name
    elif paths is not None:
        image, name = read_bytes(Path(paths[index])), str(paths[index])
    else:
        sample = dataset[index]
        image, name = encode_image(sample.image), sample.name
    annotation = dataset.annotation(index)
    if dataset.kind == "mask":
        return RawSample(image, encode_png(cast(np.ndarray, annotation)), name, index)
    return RawSample(image, annotation, name, index)


def read_bytes(path: Path) -> bytes:
    """Raises DataError when the image file is missing or unreadable."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"there is no image at {path}") from error
    except OSError as error:
        raise DataError(f"the image {path} cannot be read", got=error.strerror or error) from error


def encode_image(pixels_HWC: np.ndarray) -> bytes:
    """Uint8 [H, W, C] without loss: PNG, or a NumPy file where there are neither 1 nor 3 channels."""
    if pixels_HWC.shape[2] in (1, 3):
        return encode_png(pixels_HWC)
    buffer = BytesIO()
    np.save(buffer, pixels_HWC, allow_pickle=False)
    return buffer.getvalue()


def encode_png(pixels: np.ndarray) -> bytes:
    """Uint8 [H, W], [H, W, 1] or [H, W, 3] as PNG."""
    buffer = BytesIO()
    grey = pixels.ndim == 3 and pixels.shape[2] == 1
    Image.fromarray(np.ascontiguousarray(pixels[..., 0] if grey else pixels)).save(buffer, "PNG")
    return buffer.getvalue()
