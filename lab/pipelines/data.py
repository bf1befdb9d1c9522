"""`lab data check` and `lab data convert`: of a configuration, a set of the catalog, or files at a path."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from lab.artifacts.files import atomic_path, storage_errors
from lab.core.errors import ConfigError
from lab.core.progress import say
from lab.data.catalog import CATALOG
from lab.data.check import check, sample_sheet
from lab.data.dataset import ImageDataset, Kind, ReadOptions
from lab.data.draw import png
from lab.data.formats import FORMATS, WRITERS
from lab.data.guess import open_path
from lab.data.resolve import catalog_entry, open_dataset
from lab.pipelines.context import load_config
from lab.tasks import LEARN

ALIASES = {"sagemaker": "sagemaker_json", "masks": "mask_folder", "recordio": "rec"}
"""Other names of formats, as people say them."""


@dataclass(frozen=True)
class Source:
    """Files at a path, or a set of the catalog; format and kind of annotations are guessed where not given."""

    path: str
    format: str | None = None
    kind: Kind | None = None
    split: Literal["train", "test"] = "train"
    data_dir: Path | None = None
    options: ReadOptions = ReadOptions()

    def open(self) -> tuple[str, ImageDataset]:
        """(format, data set). Raises ConfigError for an unknown format, DataError when nothing can be read."""
        if not Path(self.path).exists() and self.path in CATALOG:
            entry = catalog_entry(self.path)
            return entry.format, open_dataset(self.path, self.split, self.data_dir, self.kind)
        name = ALIASES.get(self.format, self.format) if self.format is not None else None
        if name is not None:
            _ = FORMATS[name]
        return open_path(Path(self.path), self.options, name, self.kind)


def check_config(path: Path, overrides: Sequence[str] = (), sheet: Path | None = None) -> dict[str, Any]:
    """{"splits": {name: report}} over the data a configuration names; with `sheet` a picture per split.

    Raises:
        ConfigError, DataError: the configuration or a whole split cannot be read.
    """
    config = load_config(path, overrides)
    task = LEARN[config.task](config)
    names = [name for name in ("train", "validation", "test") if task.has_split(name)]
    splits = {}
    for name in names:
        dataset = task.eval_dataset(name)
        picture = sheet.with_name(f"{sheet.stem}-{name}{sheet.suffix}") if sheet is not None else None
        splits[name] = check(dataset).to_dict() | _write_sheet(dataset, picture)
    return {"splits": splits}


def check_source(source: Source, sheet: Path | None = None) -> dict[str, Any]:
    """{"splits": {"": report}} of files at a path or a set of the catalog; `sheet` is where a picture is written.

    Raises:
        ConfigError, DataError: nothing can be read there.
        StorageError: the picture cannot be written.
    """
    name, dataset = source.open()
    report = {"format": name} | check(dataset).to_dict() | _write_sheet(dataset, sheet)
    return {"splits": {source.path: report}}


def convert(source: Source, target: Path, to: str, *, force: bool = False) -> dict[str, Any]:
    """Write a data set in another format; whatever was at `target` is replaced only when all is written, with `force`.

    Raises:
        ConfigError: unknown format, or `target` exists and `force` is not given.
        DataError: the source cannot be read, or the format cannot hold its annotations; nothing is written.
        StorageError: the disk is full or the folder is not writable.
    """
    write = WRITERS[ALIASES.get(to, to)]
    if target.exists() and not force:
        raise ConfigError(f"{target} is already there", hint="--force replaces it")
    if target.exists() and Path(source.path).exists() and target.samefile(source.path):
        raise ConfigError("a data set cannot be converted onto itself", got=str(target))
    name, dataset = source.open()
    with storage_errors("converting", target):
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target: a rename within one file system is all that publishing takes.
        made = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp"))
        try:
            write(made / target.name, dataset)
            written = _publish(made, target)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    say(f"{len(dataset)} samples of {dataset.source} ({name}) written to {target} ({to})")
    return {"source": dataset.source, "from": name, "to": to, "num_samples": len(dataset), "files": written}


def _publish(made: Path, target: Path) -> list[str]:
    """Move everything written beside each other to the target's folder, the target itself last."""
    names = sorted((entry.name for entry in made.iterdir()), key=lambda name: name == target.name)
    for name in names:
        place = target.with_name(name)
        if place.is_dir() and not place.is_symlink():
            old = made / f".old-{name}"
            place.replace(old)
        (made / name).replace(place)
    return [str(target.with_name(name)) for name in names]


def _write_sheet(dataset: ImageDataset, path: Path | None) -> dict[str, Any]:
    picture = sample_sheet(dataset) if path is not None else None
    if path is None or picture is None:
        return {}
    with atomic_path(path) as temporary:
        temporary.write_bytes(png(picture))
    return {"sheet": str(path)}


def read_options(
    *,
    images: Path | None,
    annotations: Path | None,
    label_map: Path | None,
    subset: str | None,
    classes: str | None,
    num_classes: int | None,
    label_format: str,
) -> ReadOptions:
    """From the command line's options."""
    if label_format not in ("class", "multi-hot", "class-id"):
        raise ConfigError("unknown label format", got=label_format, expected="class, multi-hot or class-id")
    return ReadOptions(
        labels=tuple(name.strip() for name in classes.split(",")) if classes else None,
        num_classes=num_classes,
        companion=images,
        annotations=annotations,
        label_map=label_map,
        subset=subset,
        label_format=cast(Any, label_format),
    )
