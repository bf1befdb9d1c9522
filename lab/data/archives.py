"""Unpacking of published archives: files and folders only, and nothing outside the folder they are unpacked to."""

from __future__ import annotations

import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from lab.artifacts.files import storage_errors
from lab.core.errors import DataError
from lab.core.progress import bar

MAX_RATIO = 200
"""Zeros compress a thousandfold (deflate) and more; no data set comes near this."""
_BLOCK_BYTES = 1 << 20


def extract(path: Path, folder: Path, *, max_ratio: int = MAX_RATIO, min_bytes: int = 1 << 30) -> None:
    """Unpack a tar (plain or compressed) or zip archive below `folder`.

    Args:
        max_ratio: how many times its own size an archive may unpack to, where that is more than `min_bytes`.

    Raises:
        DataError: not an archive, truncated, a bomb, or a member's path leads out of the folder or is a link or device.
        StorageError: the disk is full or the folder is not writable.
    """
    with storage_errors("unpacking an archive", folder), _broken(path), bar(f"unpacking {path.name}") as advance:
        left = max(max_ratio * path.stat().st_size, min_bytes)
        for name, file in _members(path):
            target = _inside(folder, name, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as out:
                while part := file.read(_BLOCK_BYTES):
                    left -= len(part)
                    if left < 0:
                        raise _refused(path, name, f"more than {max_ratio} times the archive's size when unpacked")
                    out.write(part)
            advance(1)


def _members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                # The upper half of the attributes is the Unix mode; 0o12 is a symbolic link.
                if (info.external_attr >> 28) == 0o12:
                    raise _refused(path, info.filename, "a link")
                if not info.filename.endswith("/"):  # is_dir() trips over an empty name
                    with archive.open(info) as file:
                        yield info.filename, file
        return
    with tarfile.open(path) as tar:
        for member in tar:
            if member.isdir():
                continue
            file_in_tar = tar.extractfile(member) if member.isreg() else None
            if file_in_tar is None:
                raise _refused(path, member.name, "a link or device")
            with file_in_tar:
                yield member.name, file_in_tar


def _inside(folder: Path, name: str, path: Path) -> Path:
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or not parts.parts or ":" in parts.parts[0]:
        raise _refused(path, name, "a path that leads out of the archive's folder")
    return folder / parts


def _refused(path: Path, name: str, why: str) -> DataError:
    return DataError(f"{path} is refused", got=f"{name}: {why}", expected="files and folders below one folder")


# NotImplementedError and RuntimeError: an unknown compression or an encrypted member of a zip archive.
_BROKEN = (
    tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, lzma.LZMAError, EOFError, zlib.error, NotImplementedError,
    RuntimeError, ValueError, OverflowError,
)  # fmt: skip


@contextmanager
def _broken(path: Path) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        raise DataError(f"{path} cannot be unpacked", got=error, expected="a whole tar or zip archive") from error
