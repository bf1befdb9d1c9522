"""The members of a tar file, one after the other: strict where Python's tarfile ends silently on a damaged header.

Format: POSIX.1-2017 pax, ustar interchange format, with GNU tar's long names.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from lab.core.errors import DataError

_BLOCK = tarfile.BLOCKSIZE
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_LONG_NAME, _PAX = (tarfile.GNUTYPE_LONGNAME,), (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_IGNORED = (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK, tarfile.DIRTYPE)


@dataclass(frozen=True)
class Member:
    """A regular file in a tar file: name, place and size of its content in bytes, and the content if asked for."""

    name: str
    offset: int
    size: int
    content: bytes | None


def walk(file: BinaryIO, archive: str, *, contents: bool) -> Iterator[Member]:
    """Every regular file, in order; with `contents` read in one pass, else by seeking over them.

    Raises:
        DataError: truncated or damaged; or a member is a link, a device, or has a path that leads elsewhere.
    """
    offset, long_name = 0, None
    while True:
        block = _bytes(file, _BLOCK, archive, offset)
        if len(block) < _BLOCK:
            raise _broken(archive, offset, "the file ends without the blocks of zeros that end a tar file")
        if not block.strip(b"\0"):
            return
        header = _header(block, archive, offset)
        offset += _BLOCK
        padded = header.size + -header.size % _BLOCK
        if header.type in _LONG_NAME + _PAX:
            text = _content(file, header, padded, archive, offset)
            long_name = text.rstrip(b"\0").decode(errors="replace") if header.type in _LONG_NAME else _pax_path(text)
        elif header.type in _IGNORED:
            _content(file, header, padded, archive, offset)
            long_name = None
        else:
            name = check_path(long_name or header.name, archive)
            if header.type not in _REGULAR:
                raise _refused(archive, name, "a link or a device")
            content = _content(file, header, padded, archive, offset) if contents else None
            if not contents:
                _skip(file, padded, header, archive, offset)
            yield Member(name, offset, header.size, content)
            long_name = None
        offset += padded


def check_path(name: str, archive: str) -> str:
    """Raises DataError when a member's path is absolute or leads out of the folder it would be unpacked to."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0]:
        raise _refused(archive, name, "a path that leads out of the archive")
    return name.removeprefix("./")


def _bytes(file: BinaryIO, size: int, archive: str, offset: int) -> bytes:
    try:
        return file.read(size)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _broken(archive, offset, f"the compressed file is damaged: {error}") from error


def _header(block: bytes, archive: str, offset: int) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise _broken(archive, offset, f"no header of a member: {error}") from error


def _content(file: BinaryIO, header: tarfile.TarInfo, padded: int, archive: str, offset: int) -> bytes:
    content = _bytes(file, padded, archive, offset)
    if len(content) < padded:
        raise _broken(archive, offset, f"the file ends {len(content)} bytes into {header.name} ({header.size} bytes)")
    return content[: header.size]


def _skip(file: BinaryIO, padded: int, header: tarfile.TarInfo, archive: str, offset: int) -> None:
    """Seek over a member's content, up to its last byte, which must be there."""
    if padded:
        file.seek(padded - 1, 1)
        if not file.read(1):
            raise _broken(archive, offset, f"the file ends within {header.name} ({header.size} bytes)")


def _pax_path(text: bytes) -> str | None:
    """The "path" of an extended header: lines of "length key=value"; other keys do not matter here."""
    while text:
        length, _, rest = text.partition(b" ")
        if not length.isdigit() or int(length) <= len(length) + 1:
            return None
        key, _, value = rest[: int(length) - len(length) - 2].partition(b"=")
        if key == b"path":
            return value.decode(errors="replace")
        text = text[int(length) :]
    return None


def _broken(archive: str, offset: int, reason: str) -> DataError:
    return DataError(
        f"{archive} is damaged or truncated at byte {offset}", got=reason, hint="copy or make the tar file again"
    )


def _refused(archive: str, name: str, what: str) -> DataError:
    return DataError(f"{archive} is refused", got=f"member {name!r} is {what}", expected="files with relative paths")
