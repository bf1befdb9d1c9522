"""MXNet's `.lst`: one image per line, tab-separated: index, label(s), path relative to a root folder.

Labels are whole numbers, also written as floats ("3.000000"), in one or more columns, or one JSON array ("[0, 2]").
Format: https://mxnet.apache.org/versions/1.9.1/api/faq/recordio and Amazon SageMaker's image classification.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from lab.artifacts.files import atomic_dir, write_text
from lab.core.errors import DataError
from lab.data.dataset import FileDataset, ImageDataset, ReadOptions, class_names
from lab.data.listing import write_images


@dataclass(frozen=True)
class _Row:
    line: int
    index: int
    values: tuple[int, ...]
    path: str


def read(path: Path, options: ReadOptions | None = None) -> FileDataset:
    """Read a `.lst` file; image paths are relative to `options.companion`, or to the file's own folder.

    `options.label_format`: "class" is one class index per line; "multi-hot" zeros and ones, one per class; "class-id"
    the indices of the classes that are present.

    Raises:
        DataError: names the line: malformed, index given twice, class index out of range, missing image.
    """
    options = options or ReadOptions()
    root = options.companion or path.parent
    rows = _rows(path)
    if not rows:
        raise DataError(f"{path} lists no images")
    targets, found_classes = _targets(rows, path, options)
    paths = [root / row.path for row in rows]
    missing = [row for row, image in zip(rows, paths, strict=True) if not image.is_file()]
    if missing:
        raise DataError(
            f"{path}:{missing[0].line}: there is no image at {root / missing[0].path}",
            got=f"{len(missing)} of {len(rows)} images are missing",
            hint="paths are relative to the folder given as `images:`, or to the .lst file's own folder",
        )
    return FileDataset(paths, targets, class_names(options, found_classes), str(path), root=root)


def write(path: Path, rows: Iterable[tuple[int | Sequence[int], str]]) -> None:
    """Write (label or labels, relative path) rows; several labels become a JSON array. Raises StorageError."""
    lines = []
    for index, (label, name) in enumerate(rows):
        text = str(label) if isinstance(label, int) else json.dumps([int(value) for value in label])
        if "\t" in name or "\n" in name:
            raise DataError("a .lst file cannot hold this path", got=repr(name), expected="no tab, no line break")
        lines.append(f"{index}\t{text}\t{name}\n")
    write_text(path, "".join(lines))


def write_dataset(path: Path, dataset: ImageDataset) -> None:
    """Write the listing, and the images to the folder NAME.images beside it; image files keep their bytes.

    Raises:
        DataError: the samples have no classes, or one is broken.
        StorageError: the disk is full or the folder is not writable.
    """
    if dataset.kind != "class":
        raise DataError("a .lst file here holds classes", got=f"{dataset.source}, of kind '{dataset.kind}'")
    rows: list[tuple[int | Sequence[int], str]] = []
    with atomic_dir(path.with_name(f"{path.stem}.images")) as folder:
        for index, name, _raw in write_images(folder, dataset):
            label = cast("int | np.ndarray", dataset.annotation(index))
            rows.append((label if isinstance(label, int) else label.astype(int).tolist(), f"{path.stem}.images/{name}"))
    write(path, rows)


def _rows(path: Path) -> list[_Row]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise DataError(f"there is no .lst file at {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a .lst file", got=error) from error
    rows = [_row(f"{path}:{number}", number, line) for number, line in enumerate(lines, 1) if line.strip()]
    seen: dict[int, int] = {}
    for row in rows:
        if row.index in seen:
            raise DataError(
                f"{path}:{row.line}: index {row.index} is given twice", got=f"first at line {seen[row.index]}"
            )
        seen[row.index] = row.line
    return rows


def _row(where: str, number: int, line: str) -> _Row:
    parts = line.rstrip("\r\n").split("\t")
    if len(parts) < 3:
        raise DataError(f"{where} is not a .lst line", got=repr(line[:80]), expected="index TAB label TAB path")
    index = _whole(where, parts[0], "index")
    raw = parts[1:-1]
    if len(raw) == 1 and raw[0].lstrip().startswith("["):
        raw = _json_array(where, raw[0])
    return _Row(number, index, tuple(_whole(where, value, "label") for value in raw), parts[-1].strip())


def _json_array(where: str, text: str) -> list[str]:
    try:
        return [str(value) for value in json.loads(text)]
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where}: the label is not a JSON array", got=text[:80], expected="[0, 2] or [1, 0, 1]"
        ) from error


def _whole(where: str, text: str, what: str) -> int:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not value.is_integer():
        raise DataError(f"{where}: the {what} is not a whole number", got=repr(text))
    return int(value)


def _targets(rows: list[_Row], path: Path, options: ReadOptions) -> tuple[np.ndarray, int]:
    """(targets, number of classes found)."""
    if options.label_format == "multi-hot":
        return _multi_hot(rows, path, options.expected_classes)
    if options.label_format == "class":
        for row in rows:
            if len(row.values) != 1:
                raise DataError(
                    f"{path}:{row.line}: more or fewer than one label",
                    got=list(row.values),
                    expected="one class index",
                    hint="for several labels per image set data.label_format to multi-hot or class-id",
                )
    num_classes = _check_range(rows, path, options.expected_classes)
    if options.label_format == "class":
        return np.asarray([row.values[0] for row in rows], np.int64), num_classes
    targets = np.zeros((len(rows), num_classes), np.float32)
    for number, row in enumerate(rows):
        targets[number, list(row.values)] = 1.0
    return targets, num_classes


def _check_range(rows: list[_Row], path: Path, limit: int | None) -> int:
    """The number of classes; all indices are below it, and where it is not given, every class occurs."""
    used = {value for row in rows for value in row.values}
    num_classes = limit if limit is not None else max(used, default=-1) + 1
    for row in rows:
        bad = [value for value in row.values if not 0 <= value < num_classes]
        if bad:
            expected = f"0..{num_classes - 1}" if num_classes else "0 or more"
            raise DataError(f"{path}:{row.line}: class index out of range", got=bad[0], expected=expected)
    absent = sorted(set(range(num_classes)) - used)
    if limit is None and absent:
        raise DataError(
            f"{path}: class indices are not consecutive",
            got=f"no image of class {absent[0]}, but of class {num_classes - 1}",
            expected="every class from 0 on",
            hint="set data.num_classes or data.class_names if classes without images are meant",
        )
    return num_classes


def _multi_hot(rows: list[_Row], path: Path, limit: int | None) -> tuple[np.ndarray, int]:
    width = limit if limit is not None else len(rows[0].values)
    for row in rows:
        if len(row.values) != width or not set(row.values) <= {0, 1}:
            raise DataError(
                f"{path}:{row.line}: not a multi-hot label", got=list(row.values), expected=f"{width} zeros and ones"
            )
    return np.asarray([row.values for row in rows], np.float32), width
