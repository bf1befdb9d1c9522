"""Unpacking: what leads out of the folder is refused before anything of it is written."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from lab.core.errors import DataError
from lab.data.archives import extract


def make_tar(path: Path, name: str, kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.size, info.linkname = kind, 3, "/etc/passwd"
        archive.addfile(info, io.BytesIO(b"abc"))
    return path


def make_zip(path: Path, name: str, mode: int = 0o100644) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        archive.writestr(info, b"abc")
    return path


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_files_come_out(make: object, tmp_path: Path) -> None:
    extract(make(tmp_path / "archive", "a/b.txt"), tmp_path / "out")  # type: ignore[operator]
    assert (tmp_path / "out" / "a" / "b.txt").read_bytes() == b"abc"


@pytest.mark.parametrize("make", [make_tar, make_zip])
@pytest.mark.parametrize("name", ["../b.txt", "a/../../b.txt", "/b.txt", "a\\..\\..\\b.txt", "C:/b.txt"])
def test_paths_that_escape_are_refused(make: object, name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is refused") as caught:
        extract(make(tmp_path / "archive", name), tmp_path / "out")  # type: ignore[operator]
    assert "leads out" in str(caught.value.got)
    assert [path.name for path in tmp_path.rglob("*.txt")] == []


def test_links_are_refused(tmp_path: Path) -> None:
    for path in (
        make_tar(tmp_path / "symlink", "a", tarfile.SYMTYPE),
        make_tar(tmp_path / "hardlink", "a", tarfile.LNKTYPE),
        make_tar(tmp_path / "device", "a", tarfile.CHRTYPE),
        make_zip(tmp_path / "zip", "a", 0o120777),
    ):
        with pytest.raises(DataError, match="is refused"):
            extract(path, tmp_path / "out")


def test_truncated_archives(tmp_path: Path) -> None:
    for path in (make_tar(tmp_path / "tar", "a"), make_zip(tmp_path / "zip", "a")):
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(DataError, match="cannot be unpacked"):
            extract(path, tmp_path / "out")
