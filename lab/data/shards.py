"""Which shards a stream reads, how many samples each has, and what its classes are called, as far as that is cheap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lab.core.errors import DataError
from lab.data.dataset import ReadOptions
from lab.data.formats import manifest, recordio, tar
from lab.data.groundtruth import load_json
from lab.data.patterns import expand
from lab.data.raw import ClassIds
from lab.data.records import parse_index, scan
from lab.data.remote import exists, fetch, is_remote, local_path, open_address

_SUFFIXES = {"rec": ".rec", "tar": ".tar", "manifest": ".manifest"}


@dataclass(frozen=True)
class Shard:
    """One file of a stream; `count` None: unknown; `offsets` int64: where its samples begin, where an index says so."""

    address: str
    count: int | None
    offsets: np.ndarray | None


def find_shards(
    addresses: Sequence[str] | str, file_format: str, options: ReadOptions
) -> tuple[list[Shard], tuple[str, ...]]:
    """(shards, class names). Raises DataError: no shards, a missing or damaged one, or unknown class names."""
    names = _expanded(addresses, file_format)
    if file_format == "manifest":
        return _manifests(names, options)
    labels = _labels(addresses, file_format, options)
    if file_format == "tar":
        counts = _tar_counts(names)
        return [Shard(name, counts[name], None) for name in names], labels
    return [_rec(name, options) for name in names], labels


def _expanded(addresses: Sequence[str] | str, file_format: str) -> list[str]:
    patterns = [addresses] if isinstance(addresses, str) else list(addresses)
    names: list[str] = []
    for pattern in patterns:
        if not is_remote(pattern) and local_path(pattern).is_dir():
            names += sorted(str(path) for path in local_path(pattern).glob(f"*{_SUFFIXES[file_format]}"))
        else:
            names += expand(pattern)
    if not names:
        raise DataError(f"no shards at {addresses}", expected=f"files, or a folder of *{_SUFFIXES[file_format]}")
    return names


def _labels(addresses: Sequence[str] | str, file_format: str, options: ReadOptions) -> tuple[str, ...]:
    if options.labels is not None:
        return options.labels
    first = addresses if isinstance(addresses, str) else addresses[0]
    if file_format == "tar" and not is_remote(first) and local_path(first).is_dir():
        beside = f"{first}/classes.txt"
    else:
        folder, slash, base = first.rpartition("/")
        beside = f"{folder}{slash}{(tar if file_format == 'tar' else recordio).class_names_path(Path(base))}"
    if exists(beside):
        return tuple(fetch(beside).decode().splitlines())
    if options.num_classes is not None:
        return tuple(str(index) for index in range(options.num_classes))
    raise DataError(
        f"{first} does not say which classes there are",
        expected=f"class names in {beside}",
        hint="set data.num_classes or data.class_names",
    )


def _rec(address: str, options: ReadOptions) -> Shard:
    """With the .idx file beside it; a local file without one is scanned."""
    index = f"{address.removesuffix('.rec')}.idx"
    if exists(index):
        offsets = parse_index(fetch(index).decode(errors="replace"), index)
    elif not is_remote(address):
        offsets = scan(local_path(address))
    else:
        return Shard(address, None, None)
    samples = np.asarray(offsets[::2] if options.kind == "mask" else offsets, np.int64)
    return Shard(address, len(samples), samples)


def _tar_counts(names: Sequence[str]) -> dict[str, int | None]:
    """From index.json beside the first shard, or by the headers of plain local files."""
    folder, slash, _ = names[0].rpartition("/")
    index = f"{folder}{slash}{tar.INDEX_NAME}"
    listed: dict[str, int] = {}
    if exists(index):
        document = load_json(fetch(index), index)
        for row in document.get("shardlist", []) if isinstance(document, dict) else []:
            listed[f"{folder}{slash}{row['url']}"] = int(row["nsamples"])
    return {name: listed[name] if name in listed else _count_tar(name) for name in names}


def _count_tar(name: str) -> int | None:
    return None if is_remote(name) or name.endswith(("gz", ".tgz")) else tar.count(local_path(name))


def _manifests(names: Sequence[str], options: ReadOptions) -> tuple[list[Shard], tuple[str, ...]]:
    """Every line is read once, which finds broken ones, class names, and the number of samples."""
    counts: list[int] = []
    highest = _Highest()
    labels = manifest.merged_names(highest.watch(_lines(names, options, counts)), options)
    found = options.labels or labels or highest.labels(options.num_classes)
    if not found:
        raise DataError(
            f"{names[0]} does not say which classes there are", hint="set data.num_classes or data.class_names"
        )
    return [Shard(name, count, None) for name, count in zip(names, counts, strict=True)], found


def _lines(names: Sequence[str], options: ReadOptions, counts: list[int]) -> Iterator[manifest.Line]:
    for name in names:
        with open_address(name) as file:
            counts.append(0)
            for line in manifest.iterate_lines(file, name, options):
                counts[-1] += 1
                yield line


class _Highest:
    """The number of classes that lines use, for manifests without class names."""

    num_classes = 0

    def watch(self, lines: Iterator[manifest.Line]) -> Iterator[manifest.Line]:
        for line in lines:
            self.num_classes = max(self.num_classes, _used(line.annotation))
            yield line

    def labels(self, num_classes: int | None) -> tuple[str, ...]:
        return tuple(str(index) for index in range(num_classes or self.num_classes))


def _used(annotation: Any) -> int:
    if isinstance(annotation, int):
        return annotation + 1
    if isinstance(annotation, np.ndarray):
        return len(annotation)
    if isinstance(annotation, bytes):
        return 0
    values = annotation.values if isinstance(annotation, ClassIds) else annotation.classes_K
    return int(max(values, default=-1)) + 1
