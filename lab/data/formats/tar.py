"""Tar shards as the webdataset library reads and writes them: the files of a sample follow each other and share a key.

The key is the path up to the first dot of the file's name, the rest says what the file is:

| kind | files |
|---|---|
| class | KEY.jpg (or another image suffix), KEY.cls: the class index; several classes: KEY.json, a JSON array |
| boxes | KEY.jpg, KEY.json: {"image_size", "annotations", "categories"} as in OD-I3 (`lab.data.groundtruth`) |
| mask | KEY.jpg, KEY.seg.png: the mask; KEY.mask.png, or KEY.png beside another image, are read as masks too |

Files with other suffixes are left alone. Format: https://github.com/webdataset/webdataset, "The WebDataset Format".
"""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from lab.artifacts.files import atomic_path, write_json, write_text
from lab.core.errors import ConfigError, DataError
from lab.core.progress import track
from lab.data.dataset import Boxes, ImageDataset, Kind, ReadOptions
from lab.data.decode import image_size, suffix_of
from lab.data.encoded import EncodedDataset, file_digest, found_labels, read_class_names
from lab.data.groundtruth import boxes_from, boxes_to, categories_of, categories_to, load_json, names_to_labels, size_of
from lab.data.patterns import expand
from lab.data.preprocess import EXTENSIONS
from lab.data.raw import ClassIds, RawAnnotation, RawSample, class_annotation, encoded_sample
from lab.data.tarwalk import walk

IMAGE_SUFFIXES = tuple(extension[1:] for extension in EXTENSIONS)
MASK_SUFFIXES = ("seg.png", "mask.png")
INDEX_NAME = "index.json"
"""Number of samples per shard, beside shards: {"wids_version": 1, "shardlist": [{"url", "nsamples"}]}, as webdataset's
wids has it."""


def split_key(name: str) -> tuple[str, str]:
    """(key, suffix in lower case) of a member: the suffix begins at the first dot of the file's name.

    Hidden files have none, and belong to no sample.
    """
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return folder + slash + stem, suffix.lower() if stem else ""


# ---- one sample ------------------------------------------------------------------------------------------------------


def _roles(suffixes: Sequence[str], kind: Kind, name: str) -> tuple[str, str]:
    """The suffixes of the image and of its annotation. Raises DataError when one is missing."""
    images = [suffix for suffix in suffixes if suffix in IMAGE_SUFFIXES]
    masks = [suffix for suffix in suffixes if suffix in MASK_SUFFIXES]
    if kind == "mask" and not masks and len(images) > 1 and "png" in images:
        masks = ["png"]
    images = [suffix for suffix in images if suffix not in masks]
    wanted = {"class": ("cls", "json"), "boxes": ("json",), "mask": masks}[kind]
    annotation = next((suffix for suffix in wanted if suffix in suffixes), None)
    if not images or annotation is None:
        needed = {"class": ".cls or .json", "boxes": ".json", "mask": ".seg.png"}[kind]
        raise DataError(
            f"{name} is not complete", got=f"files {', '.join(suffixes)}", expected=f"an image and its {needed}"
        )
    return images[0], annotation


def _sample(image: bytes, annotation: bytes, suffix: str, options: ReadOptions, name: str, index: int) -> RawSample:
    if options.kind != "boxes":
        return RawSample(image, _annotation(annotation, suffix, options, name), name, index)
    document = load_json(annotation, f"{name}.{suffix}")
    boxes = boxes_from(document, f"{name}.{suffix}")
    return RawSample(image, boxes, name, index, size_of(document, name))


def _annotation(content: bytes, suffix: str, options: ReadOptions, name: str) -> RawAnnotation:
    if options.kind == "mask":
        return content
    document = load_json(content, f"{name}.{suffix}")
    if options.kind == "boxes":
        return boxes_from(document, f"{name}.{suffix}")
    values = document if isinstance(document, list) else [document]
    if not all(isinstance(value, int | float) for value in values):
        raise DataError(f"{name}.{suffix} is no label", got=repr(content[:60]), expected="a class index, or [0, 2]")
    return class_annotation(values, options, name)


def iterate(file: BinaryIO, name: str, options: ReadOptions) -> Iterator[RawSample]:
    """Every sample of one shard (also .tar.gz), in one pass.

    Raises:
        DataError: as `lab.data.tarwalk.walk`; a sample is not complete.
    """
    source = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if name.endswith((".gz", ".tgz")) else file
    for index, (key, parts) in enumerate(_groups(source, name)):
        where = f"{name}/{key}"
        image, annotation = _roles(list(parts), options.kind, where)
        yield _sample(parts[image], parts[annotation], annotation, options, where, index)


def _groups(file: BinaryIO, name: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    current, parts = "", dict[str, bytes]()
    for member in walk(file, name, contents=True):
        key, suffix = split_key(member.name)
        if not suffix:
            continue
        if key != current and parts:
            yield current, parts
            parts = {}
        current = key
        parts[suffix] = cast(bytes, member.content)
    if parts:
        yield current, parts


def count(path: Path) -> int:
    """Samples in a shard, from the members' headers alone."""
    return len(_index(path))


# ---- data sets -------------------------------------------------------------------------------------------------------

_Place = tuple[int, int]


def _index(path: Path) -> list[tuple[str, dict[str, _Place]]]:
    """(key, suffix -> (offset, size)) of every sample of a shard."""
    found: list[tuple[str, dict[str, _Place]]] = []
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise DataError(f"there is no tar file at {path}") from error
    with file:
        if file.read(2) == b"\x1f\x8b":
            raise DataError(f"{path} is compressed and cannot be read by index", hint="gunzip it, or data.mode: stream")
        file.seek(0)
        for member in walk(file, str(path), contents=False):
            key, suffix = split_key(member.name)
            if not suffix:
                continue
            if not found or found[-1][0] != key:
                found.append((key, {}))
            found[-1][1][suffix] = (member.offset, member.size)
    return found


@dataclass(frozen=True)
class _Sample:
    path: Path
    key: str
    places: Mapping[str, _Place]


@dataclass(frozen=True)
class _Records:
    samples: Sequence[_Sample]
    options: ReadOptions

    def __len__(self) -> int:
        return len(self.samples)

    def raw(self, index: int) -> RawSample:
        sample = self.samples[index]
        name = f"{sample.path}/{sample.key}"
        image, annotation = _roles(list(sample.places), self.options.kind, name)
        with sample.path.open("rb") as file:
            content, label = (_read(file, sample, suffix) for suffix in (image, annotation))
        return _sample(content, label, annotation, self.options, name, index)

    def annotation(self, index: int) -> RawAnnotation:
        sample = self.samples[index]
        name = f"{sample.path}/{sample.key}"
        _, suffix = _roles(list(sample.places), self.options.kind, name)
        with sample.path.open("rb") as file:
            return _annotation(_read(file, sample, suffix), suffix, self.options, name)

    def document(self, index: int) -> Any:
        """The JSON of a sample with boxes."""
        sample = self.samples[index]
        with sample.path.open("rb") as file:
            return load_json(_read(file, sample, "json"), f"{sample.path}/{sample.key}.json")


def _read(file: BinaryIO, sample: _Sample, suffix: str) -> bytes:
    offset, size = sample.places[suffix]
    file.seek(offset)
    return file.read(size)


def read(path: Path, options: ReadOptions | None = None) -> EncodedDataset:
    """A tar file, the files of a pattern (shards-{000..009}.tar), or all *.tar of a folder, indexed by their headers.

    Class names come from the options, "categories" of the first sample with boxes, or NAME.classes.txt (see `write`).

    Raises:
        DataError: missing, truncated or compressed; a member is a link or leads out of the archive.
    """
    options = options or ReadOptions()
    paths = sorted(path.glob("*.tar")) if path.is_dir() else [Path(name) for name in expand(str(path))]
    samples = [_Sample(shard, key, places) for shard in paths for key, places in _index(shard)]
    if not samples:
        raise DataError(
            f"{path} holds no samples", expected="tar files of KEY.jpg with KEY.cls, KEY.json or KEY.seg.png"
        )
    records = _Records(samples, options)
    labels = options.labels or read_class_names(class_names_path(path)) or _categories(records, options)
    labels = labels or found_labels(records, options, str(path))
    digest = partial(file_digest, paths, labels, (options.kind, options.label_format))
    return EncodedDataset(records, options.kind, labels, str(path), digest)


def _categories(records: _Records, options: ReadOptions) -> tuple[str, ...]:
    if options.kind != "boxes" or "json" not in records.samples[0].places:
        return ()
    return names_to_labels(categories_of(records.document(0), str(records.samples[0].path)), options.num_classes or 0)


def class_names_path(path: Path) -> Path:
    """Where the class names lie: shards-{000..009}.tar and shards.tar have shards.classes.txt."""
    if path.is_dir():
        return path / "classes.txt"
    stem = re.sub(r"[-_.]?\{.*", "", path.name).removesuffix(".tar")
    return path.with_name(f"{stem}.classes.txt" if stem else "classes.txt")


def write(
    path: Path, dataset: ImageDataset, *, num_shards: int | None = None, max_shard_bytes: int | None = None
) -> None:
    """Write one tar file; or several, NAME-000000.tar and so on, by number or by size; images keep their bytes.

    Beside the shards, index.json counts their samples and NAME.classes.txt names the classes.

    Raises:
        ConfigError: both limits, or an impossible one.
        DataError: a sample cannot be read.
        StorageError: the disk is full or the folder is not writable.
    """
    if num_shards is not None and max_shard_bytes is not None:
        raise ConfigError("give num_shards or max_shard_bytes, not both")
    if num_shards is not None and not 1 <= num_shards <= len(dataset):
        raise ConfigError("impossible number of shards", got=num_shards, expected=f"1..{len(dataset)}")
    single = num_shards is None and max_shard_bytes is None
    counts: list[dict[str, Any]] = []
    index = 0
    while index < len(dataset):
        name = path.name if single else f"{path.stem}-{len(counts):06d}.tar"
        stop = len(dataset) if num_shards is None else len(dataset) * (len(counts) + 1) // num_shards
        first, index = index, _write_shard(path.with_name(name), dataset, index, stop, max_shard_bytes)
        counts.append({"url": name, "nsamples": index - first})
    if not single:
        write_json(path.with_name(INDEX_NAME), {"wids_version": 1, "shardlist": counts})
    write_text(class_names_path(path), "".join(f"{label}\n" for label in dataset.labels))


def _write_shard(path: Path, dataset: ImageDataset, start: int, stop: int, max_bytes: int | None) -> int:
    """Write samples from `start` on; returns the first that is not in the shard."""
    with atomic_path(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as archive:
        for index in track(range(start, stop), f"writing {path.name}", stop - start):
            files = _files(encoded_sample(dataset, index), dataset)
            size = sum(2 * tarfile.BLOCKSIZE + len(content) for content in files.values())
            if max_bytes is not None and index > start and archive.offset + size > max_bytes:
                return index
            for suffix, content in files.items():
                # Times, owners and modes are constant, so that the bytes depend on the data set alone.
                info = tarfile.TarInfo(f"{index:09d}.{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return stop


def _files(sample: RawSample, dataset: ImageDataset) -> dict[str, bytes]:
    annotation, suffix = sample.annotation, suffix_of(sample.image)
    if isinstance(annotation, bytes):
        return {suffix: sample.image, "seg.png": annotation}
    if isinstance(annotation, Boxes):
        document = boxes_to(annotation, image_size(sample.image, sample.name))
        document["categories"] = categories_to(dataset.labels)
        return {suffix: sample.image, "json": json.dumps(document).encode()}
    if isinstance(annotation, int):
        return {suffix: sample.image, "cls": str(annotation).encode()}
    assert isinstance(annotation, np.ndarray | ClassIds)
    values = annotation.values if isinstance(annotation, ClassIds) else annotation.astype(int).tolist()
    return {suffix: sample.image, "json": json.dumps(list(values)).encode()}
