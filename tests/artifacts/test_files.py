from __future__ import annotations

import errno
from pathlib import Path

import pytest

from lab.artifacts.files import atomic_dir, atomic_path, read_json, recover_dir, sha256_json, write_json, write_text
from lab.core.errors import ArtifactError, StorageError


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    monkeypatch.setattr("lab.artifacts.files.os.fsync", full_disk)
    with pytest.raises(StorageError, match=r"writing a\.json failed") as caught:
        write_json(path, {"new": 2})
    assert "No space left" in str(caught.value.got)
    assert read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_full_disk_keeps_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "bundle"
    with atomic_dir(folder) as temporary:
        (temporary / "x").write_text("old")
    with pytest.raises(StorageError), atomic_dir(folder) as temporary:
        (temporary / "x").write_text("new")
        full_disk()
    assert (folder / "x").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_an_error_inside_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(ValueError, match="x"), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise ValueError("x")
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_folder_swap_killed_between_its_renames_is_recovered(tmp_path: Path) -> None:
    old = tmp_path / ".bundle.old"
    old.mkdir()
    (old / "x").write_text("kept")
    recover_dir(tmp_path / "bundle")
    assert (tmp_path / "bundle" / "x").read_text() == "kept"


def test_unreadable_json_is_an_artifact_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="missing"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_json(tmp_path / "a.json")


def test_json_hash_ignores_key_order() -> None:
    assert sha256_json({"a": 1, "b": [2]}) == sha256_json({"b": [2], "a": 1})
    assert sha256_json({"a": 1}) != sha256_json({"a": 2})
