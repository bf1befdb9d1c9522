"""MXNet RecordIO: `.rec` with images and packed labels, `.idx` with the place of every record.

Bit-compatible with `im2rec` (SageMaker's IC-I1, OD-I1). The framing is that of `lab.data.records`; an image record is
IRHeader (flag, label, id, id2: "IfQQ"), `flag` further float32 labels, the encoded image. The labels of detection are:
width of this header, width of an object, ..., then per object class, xmin, ymin, xmax, ymax in 0..1, further columns
(the first: difficult); -1 is padding. MXNet has no records of masks: here the mask, a PNG, is the record after its
image's, with id2 = 1, as in SageMaker's pipe mode, where the attributes of one sample follow each other.

Format: MXNet python/mxnet/recordio.py, src/io/image_recordio.h, src/io/image_det_aug_default.cc.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from lab.artifacts.files import atomic_path, write_text
from lab.core.errors import DataError
from lab.core.progress import track
from lab.data.dataset import Boxes, ImageDataset, Kind, ReadOptions
from lab.data.decode import image_size
from lab.data.encoded import EncodedDataset, file_digest, found_labels, read_class_names
from lab.data.raw import ClassIds, RawAnnotation, RawSample, RelativeBoxes, class_annotation, encoded_sample
from lab.data.records import (
    MAGIC,
    MAX_RECORD_BYTES,
    WHOLE,
    broken_record,
    frame,
    parse_index,
    read_record,
    rec_size,
    scan,
)

_IR_HEADER = struct.Struct("<IfQQ")
_HEAD_BYTES = 8 + _IR_HEADER.size
_MASK_ID2 = 1


# ---- what a record holds ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageRecord:
    """An unpacked record: labels float32, image id, second id, encoded image."""

    labels: np.ndarray
    image_id: int
    id2: int
    content: bytes


def pack(labels: float | Sequence[float] | np.ndarray, image_id: int, content: bytes, id2: int = 0) -> bytes:
    """The payload of an image record, as `mxnet.recordio.pack` makes it: a single number lies in the header itself."""
    if isinstance(labels, int | float):
        return _IR_HEADER.pack(0, labels, image_id, id2) + content
    values = np.asarray(labels, "<f4").reshape(-1)
    return _IR_HEADER.pack(len(values), 0, image_id, id2) + values.tobytes() + content


def unpack(payload: bytes, name: str) -> ImageRecord:
    """Raises DataError when the payload is shorter than its header says."""
    if len(payload) >= _IR_HEADER.size:
        num_labels, label, image_id, id2 = _IR_HEADER.unpack_from(payload)
        start = _IR_HEADER.size + 4 * num_labels
        if len(payload) >= start:
            several = np.frombuffer(payload, "<f4", num_labels, _IR_HEADER.size).astype(np.float32)
            return ImageRecord(several if num_labels else np.array([label], np.float32), image_id, id2, payload[start:])
    raise DataError(
        f"{name} is no image record", got=f"{len(payload)} bytes", expected="IRHeader, labels, an encoded image"
    )


def boxes_of(labels: np.ndarray, name: str) -> RelativeBoxes:
    """The objects in a packed label; rows of class -1 are padding. Raises DataError when it is not a packed label."""
    if len(labels) < 2 or not (2 <= labels[0] <= len(labels)) or labels[1] < 5:
        raise DataError(
            f"{name} has no packed label",
            got=[float(value) for value in labels[:6]],
            expected="header width >= 2, object width >= 5, ..., class, xmin, ymin, xmax, ymax (im2rec --pack-label)",
        )
    width, values = int(labels[1]), labels[int(labels[0]) :]
    whole, rest = values[: len(values) // width * width], values[len(values) // width * width :]
    if (rest != -1).any():
        raise DataError(f"{name} has half an object", got=f"{len(values)} values", expected=f"a multiple of {width}")
    rows = whole.reshape(-1, width)
    rows = rows[rows[:, 0] >= 0]
    if not np.array_equal(rows[:, 0], np.rint(rows[:, 0])):
        raise DataError(f"{name}: the class of an object is not a whole number", got=rows[:, 0].tolist()[:10])
    ignore_K = rows[:, 5] > 0 if width > 5 else np.zeros(len(rows), bool)
    return RelativeBoxes(rows[:, 1:5].copy(), rows[:, 0].astype(np.int64), ignore_K)


def packed_boxes(boxes: Boxes, size: tuple[int, int], *, object_width: int = 5, label_width: int = 0) -> np.ndarray:
    """The label of an image of `size` (height, width), padded with -1 to `label_width` values (OD-H14).

    An image without objects has one padding row: MXNet refuses labels of fewer than 7 values.
    """
    num_rows = max(len(boxes), 1, -(-(label_width - 2) // object_width))
    rows = np.full((num_rows, object_width), -1, np.float32)
    rows[: len(boxes), 0] = boxes.classes_K
    rows[: len(boxes), 1:5] = boxes.boxes_K4 / np.array([size[1], size[0], size[1], size[0]], np.float64)
    if object_width > 5:
        rows[: len(boxes), 5:] = boxes.ignore_K[:, None]
    return np.concatenate([np.array([2, object_width], np.float32), rows.reshape(-1)])


def _annotation(labels: np.ndarray, options: ReadOptions, name: str) -> RawAnnotation:
    return boxes_of(labels, name) if options.kind == "boxes" else class_annotation(list(labels), options, name)


def _with_mask(image: bytes, mask: bytes | None, name: str, index: int) -> RawSample:
    first = unpack(image, name)
    second = unpack(mask, name) if mask is not None else None
    if second is None or first.id2 == _MASK_ID2 or second.id2 != _MASK_ID2:
        raise DataError(f"{name} has no mask", expected="records in pairs: image, mask (id2 = 1)")
    return RawSample(first.content, second.content, name, index)


def iterate(file: BinaryIO, name: str, options: ReadOptions, *, index: int = 0, offset: int = 0) -> Iterator[RawSample]:
    """Every sample of a stream of records, in order, from sample `index` on, which begins at byte `offset`.

    Raises:
        DataError: a record is damaged; names its offset.
    """
    if offset:
        file.seek(offset)
    while True:
        start = offset
        payload, offset = read_record(file, name, offset)
        if payload is None:
            return
        where = f"{name}[{index}]"
        if options.kind == "mask":
            mask, offset = read_record(file, name, offset)
            yield _with_mask(payload, mask, where, index)
        else:
            record = unpack(payload, f"{where} (byte {start})")
            yield RawSample(record.content, _annotation(record.labels, options, where), where, index)
        index += 1


# ---- data sets -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Records:
    path: Path
    offsets: np.ndarray
    """Of the first record of every sample."""
    options: ReadOptions

    def __len__(self) -> int:
        return len(self.offsets)

    def _name(self, index: int) -> str:
        return f"{self.path}[{index}]"

    def raw(self, index: int) -> RawSample:
        name, offset = self._name(index), int(self.offsets[index])
        # Opened each time: no file handle is shared between processes, and none needs to be pickled.
        with self.path.open("rb") as file:
            file.seek(offset)
            payload, offset = read_record(file, str(self.path), offset)
            if payload is None:
                raise broken_record(str(self.path), offset, "the .idx file points behind the end")
            if self.options.kind == "mask":
                return _with_mask(payload, read_record(file, str(self.path), offset)[0], name, index)
        record = unpack(payload, name)
        return RawSample(record.content, _annotation(record.labels, self.options, name), name, index)

    def annotation(self, index: int) -> RawAnnotation:
        if self.options.kind == "mask":
            return self.raw(index).annotation
        with self.path.open("rb") as file:
            file.seek(int(self.offsets[index]))
            head = file.read(_HEAD_BYTES)
            # A split record, or a damaged one, is read whole.
            if len(head) < _HEAD_BYTES or head[:4] != MAGIC or head[7] >> 5 != WHOLE:
                return self.raw(index).annotation
            num_labels = int.from_bytes(head[8:12], "little")
            labels = file.read(min(4 * num_labels, MAX_RECORD_BYTES))
        return _annotation(unpack(head[8:] + labels, self._name(index)).labels, self.options, self._name(index))


def read(path: Path, options: ReadOptions | None = None) -> EncodedDataset:
    """A `.rec` file; the records' places from the `.idx` file beside it, or by a scan when there is none.

    Class names come from the options, or from NAME.classes.txt beside it (`write` makes it).

    Raises:
        DataError: missing, truncated or damaged; the index does not fit; classes out of range.
    """
    options = options or ReadOptions()
    size, index_path = rec_size(path), path.with_suffix(".idx")
    offsets = parse_index(index_path.read_text(), str(index_path)) if index_path.is_file() else scan(path)
    if offsets and offsets[-1] >= size:
        raise broken_record(str(path), size, f"{index_path.name} places a record at byte {offsets[-1]}")
    samples = offsets[::2] if options.kind == "mask" else offsets
    if not samples:
        raise DataError(f"{path} holds no records")
    records = _Records(path, np.asarray(samples, np.int64), options)
    labels = options.labels or read_class_names(class_names_path(path)) or found_labels(records, options, str(path))
    digest = partial(file_digest, [path], labels, (options.kind, options.label_format))
    return EncodedDataset(records, options.kind, labels, str(path), digest)


def class_names_path(path: Path) -> Path:
    """Where the class names lie, for which RecordIO has no place."""
    return path.with_suffix(".classes.txt")


def write(path: Path, dataset: ImageDataset, *, label_width: int = 0) -> None:
    """Write `path` (.rec), its .idx and the class names; images that are files keep their bytes.

    `label_width` pads packed labels with -1 (OD-H14). Objects get a sixth column where any is `ignore`.

    Raises:
        DataError: a sample cannot be read.
        StorageError: the disk is full or the folder is not writable.
    """
    kind, num = dataset.kind, len(dataset)
    object_width = 5
    if kind == "boxes" and any(cast(Boxes, dataset.annotation(index)).ignore_K.any() for index in range(num)):
        object_width = 6
    lines: list[str] = []
    offset = 0
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for index in track(range(num), "writing records", num):
            for payload in _payloads(encoded_sample(dataset, index), kind, index, object_width, label_width):
                lines.append(f"{len(lines)}\t{offset}\n")
                offset += file.write(frame(payload))
    write_text(path.with_suffix(".idx"), "".join(lines))
    write_text(class_names_path(path), "".join(f"{label}\n" for label in dataset.labels))


def _payloads(sample: RawSample, kind: Kind, index: int, object_width: int, label_width: int) -> list[bytes]:
    annotation = sample.annotation
    if kind == "mask":
        return [pack(0.0, 2 * index, sample.image), pack(0.0, 2 * index + 1, cast(bytes, annotation), _MASK_ID2)]
    if isinstance(annotation, Boxes):
        size = image_size(sample.image, sample.name)
        label = packed_boxes(annotation, size, object_width=object_width, label_width=label_width)
        return [pack(label, index, sample.image)]
    assert isinstance(annotation, int | np.ndarray | ClassIds)
    values = annotation.values if isinstance(annotation, ClassIds) else annotation
    return [pack(values, index, sample.image)]
