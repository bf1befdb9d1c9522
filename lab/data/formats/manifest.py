"""Augmented manifest: JSON Lines, one sample per line (SageMaker's IC-I4, IC-I5, OD-I4, SS-I5; Ground Truth's output).

    {"source-ref": "s3://bucket/1.jpg", "class": "0", "class-metadata": {"class-name": "dog"}}
    {"source-ref": "1.jpg", "bounding-box": {"image_size": [...], "annotations": [...]},
     "bounding-box-metadata": {"class-map": {"0": "dog"}}}
    {"source-ref": "1.jpg", "streets-ref": "1.png", "streets-ref-metadata": {"internal-color-map": {...}}}

References are s3://, http(s):// or file:// addresses, or paths relative to the manifest's folder (or `companion`).
Several classes are an array, or a string that holds one ("[0, 2]"). The annotation is the one attribute of its kind.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from lab.artifacts.files import atomic_path, storage_errors
from lab.core.errors import DataError
from lab.core.progress import track
from lab.data.dataset import Boxes, ImageDataset, ReadOptions
from lab.data.decode import image_size, suffix_of
from lab.data.encoded import EncodedDataset, file_digest, found_labels
from lab.data.groundtruth import boxes_from, boxes_to, load_json, names_to_labels, size_of
from lab.data.raw import ClassIds, RawAnnotation, RawSample, class_annotation, encoded_sample
from lab.data.remote import fetch, is_remote, open_address

SOURCE, METADATA, REFERENCE = "source-ref", "-metadata", "-ref"


@dataclass(frozen=True)
class Line:
    """One line: where the image is; the annotation, or where its mask is; the names of classes that it tells."""

    source: str
    annotation: RawAnnotation
    mask: str | None
    names: Mapping[int, str]
    name: str
    size: tuple[int, int] | None = None
    """(height, width) for which boxes were made, where the line says so."""

    def load(self, base: str, index: int) -> RawSample:
        """Fetch what the line refers to. Raises DataError naming the line."""
        try:
            image = fetch(resolve(self.source, base))
            annotation = fetch(resolve(self.mask, base)) if self.mask is not None else self.annotation
        except DataError as error:
            raise DataError(
                f"{self.name}: {error.what}", got=error.got, expected=error.expected, hint=error.hint
            ) from error
        return RawSample(image, annotation, f"{self.name} ({self.source})", index, self.size)


def resolve(reference: str, base: str) -> str:
    """The address of a reference; `base` is the folder (or address of a folder) for relative ones."""
    if is_remote(reference) or reference.startswith(("/", "file://")):
        return reference
    return f"{base.rstrip('/')}/{reference}"


def parse_line(text: str, options: ReadOptions, where: str) -> Line:
    """Raises DataError when the line is not JSON, has no image, or not exactly one annotation of `options.kind`."""
    document = load_json(text, where)
    if not isinstance(document, dict) or not isinstance(document.get(SOURCE), str):
        raise DataError(f"{where} names no image", got=text[:80], expected='{"source-ref": "s3://...", ...}')
    attribute = _attribute(document, options.kind, where)
    value = document[attribute]
    names = _names(document, attribute, value)
    if options.kind == "mask":
        return Line(document[SOURCE], b"", str(value), names, where)
    if options.kind == "boxes":
        return Line(document[SOURCE], boxes_from(value, where), None, names, where, size_of(value, where))
    return Line(document[SOURCE], class_annotation(_numbers(value, where), options, where), None, names, where)


def _attribute(document: Mapping[str, Any], kind: str, where: str) -> str:
    own = {key: value for key, value in document.items() if key != SOURCE and not key.endswith(METADATA)}
    found = [key for key, value in own.items() if _fits(kind, key, value)]
    if kind == "class" and "class" in found:
        return "class"
    if len(found) != 1:
        expected = {
            "class": "one label",
            "boxes": "one attribute with annotations",
            "mask": "one attribute NAME-ref: the mask's address",
        }[kind]
        raise DataError(f"{where}: which attribute is the annotation?", got=", ".join(own) or "none", expected=expected)
    return found[0]


def _fits(kind: str, key: str, value: Any) -> bool:
    if kind == "boxes":
        return isinstance(value, dict) and "annotations" in value
    if kind == "mask":
        return key.endswith(REFERENCE) and isinstance(value, str)
    return not key.endswith(REFERENCE) and isinstance(value, str | int | float | list)


def _numbers(value: Any, where: str) -> Sequence[float]:
    parsed = load_json(value, f"{where}: the label") if isinstance(value, str) else value
    numbers = parsed if isinstance(parsed, list) else [parsed]
    if not all(isinstance(number, int | float) for number in numbers):
        raise DataError(f"{where}: the label is no number", got=repr(value)[:80], expected='"0", or "[0, 2]"')
    return numbers


def _names(document: Mapping[str, Any], attribute: str, value: Any) -> dict[int, str]:
    """Class names that the metadata tells; Ground Truth names them in three ways."""
    metadata = document.get(f"{attribute}{METADATA}", document.get(f"{attribute.removesuffix(REFERENCE)}{METADATA}"))
    if not isinstance(metadata, dict):
        return {}
    if isinstance(metadata.get("class-name"), str) and str(value).isdigit():
        return {int(value): metadata["class-name"]}
    names = metadata.get("class-map", metadata.get("internal-color-map"))
    if not isinstance(names, dict):
        return {}
    return {
        int(key): str(name.get("class-name", key)) if isinstance(name, dict) else str(name)
        for key, name in names.items()
        if str(key).isdigit() and int(key) < 255
    }


def iterate_lines(file: BinaryIO, name: str, options: ReadOptions) -> Iterator[Line]:
    """Every line of a manifest, in order, empty ones left out. Raises DataError naming the line."""
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(f"{name}:{number} is not UTF-8 text", got=error) from error
            yield parse_line(text, options, f"{name}:{number}")


def base_of(address: str, options: ReadOptions) -> str:
    """What relative references of the manifest at `address` are relative to."""
    if options.companion is not None:
        return str(options.companion)
    return address.rpartition("/")[0] if "/" in address else "."


# ---- data sets -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Records:
    lines: Sequence[Line]
    base: str

    def __len__(self) -> int:
        return len(self.lines)

    def raw(self, index: int) -> RawSample:
        return self.lines[index].load(self.base, index)

    def annotation(self, index: int) -> RawAnnotation:
        line = self.lines[index]
        return line.annotation if line.mask is None else self.raw(index).annotation


def read(path: Path, options: ReadOptions | None = None) -> EncodedDataset:
    """Read a manifest whole; images are fetched when they are asked for.

    Class names come from the options, or from the "-metadata" of all lines.

    Raises:
        DataError: missing; a line is broken, or its annotation is not of `options.kind`; names the line.
    """
    options = options or ReadOptions()
    with open_address(str(path)) as file:
        lines = list(iterate_lines(file, str(path), options))
    if not lines:
        raise DataError(f"{path} lists no images")
    records = _Records(lines, base_of(str(path), options))
    labels = options.labels or merged_names(lines, options) or found_labels(records, options, str(path))
    digest = partial(file_digest, [path], labels, (options.kind, options.label_format))
    return EncodedDataset(records, options.kind, labels, str(path), digest)


def merged_names(lines: Iterable[Line], options: ReadOptions) -> tuple[str, ...]:
    """Class names of all lines together, () when there are none. Raises DataError when two lines disagree."""
    names: dict[int, str] = {}
    for line in lines:
        for index, name in line.names.items():
            if names.setdefault(index, name) != name:
                raise DataError(
                    f"{line.name} names class {index} otherwise than an earlier line",
                    got=name,
                    expected=names[index],
                    hint="set data.class_names",
                )
    return names_to_labels(names, options.num_classes or 0) if names else ()


def write(path: Path, dataset: ImageDataset) -> None:
    """Write the manifest, and images (and masks) to the folder NAME.images beside it; files keep their bytes.

    Raises:
        DataError: a sample cannot be read.
        StorageError: the disk is full or the folder is not writable.
    """
    folder = path.with_name(f"{path.stem}.images")
    with storage_errors(f"writing {folder}", folder):
        folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for index in track(range(len(dataset)), "writing images", len(dataset)):
            sample = encoded_sample(dataset, index)
            image = folder / f"{index:09d}.{suffix_of(sample.image)}"
            image.write_bytes(sample.image)
            line = {SOURCE: f"{folder.name}/{image.name}"} | _attributes(sample, dataset, folder, index)
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _attributes(sample: RawSample, dataset: ImageDataset, folder: Path, index: int) -> dict[str, Any]:
    annotation = sample.annotation
    class_map = {str(number): label for number, label in enumerate(dataset.labels)}
    if isinstance(annotation, bytes):
        mask = folder / f"{index:09d}.seg.png"
        mask.write_bytes(annotation)
        colours = {number: {"class-name": label} for number, label in class_map.items()}
        return {"mask-ref": f"{folder.name}/{mask.name}", "mask-ref-metadata": {"internal-color-map": colours}}
    if isinstance(annotation, Boxes):
        document = boxes_to(annotation, image_size(sample.image, sample.name))
        metadata = {"class-map": class_map, "type": "groundtruth/object-detection"}
        return {"bounding-box": document, "bounding-box-metadata": metadata}
    if isinstance(annotation, int):
        return {"class": str(annotation), "class-metadata": {"class-map": class_map}}
    assert isinstance(annotation, np.ndarray | ClassIds)
    values = annotation.values if isinstance(annotation, ClassIds) else annotation.astype(int).tolist()
    return {"class": json.dumps(list(cast("Sequence[int]", values))), "class-metadata": {"class-map": class_map}}
