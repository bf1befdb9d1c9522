"""Tar shards: what webdataset reads and writes, shards by number and size, and archives that are refused."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab.core.errors import ConfigError, DataError
from lab.data.dataset import ReadOptions
from lab.data.formats.tar import iterate, read, split_key, write
from lab.data.patterns import expand
from lab.data.tarwalk import check_path
from tests.data.held import LABELS, assert_equal, held, jpeg, noise

JPEG = jpeg(noise(0, 16, 16))
MakeTar = Callable[..., Path]


@pytest.fixture
def make_tar(tmp_path: Path) -> MakeTar:
    """Write members (name, content or TarInfo type) to a tar file."""

    def make(*members: tuple[str, bytes], tar_format: int = tarfile.USTAR_FORMAT, name: str = "a.tar") -> Path:
        with tarfile.open(tmp_path / name, "w", format=tar_format) as archive:
            for member, content in members:
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return tmp_path / name

    return make


@pytest.mark.parametrize("kind", ["class", "boxes", "mask"])
def test_round_trip(kind: Any, tmp_path: Path) -> None:
    expected = held(kind)
    write(tmp_path / "a.tar", expected)
    found = read(tmp_path / "a.tar", ReadOptions(kind=kind))
    assert_equal(found, expected)
    with (tmp_path / "a.tar").open("rb") as file:
        assert [raw.image for raw in iterate(file, "a.tar", ReadOptions(kind=kind))] == expected.images
    write(tmp_path / "b" / "a.tar", found)
    assert (tmp_path / "b" / "a.tar").read_bytes() == (tmp_path / "a.tar").read_bytes()


def test_shards_by_number_and_by_size(tmp_path: Path) -> None:
    expected = held("class", 11)
    write(tmp_path / "s.tar", expected, num_shards=3)
    index = json.loads((tmp_path / "index.json").read_text())
    assert index["shardlist"] == [
        {"url": f"s-00000{number}.tar", "nsamples": count} for number, count in enumerate((3, 4, 4))
    ]
    assert_equal(read(tmp_path / "s-{000000..000002}.tar"), expected)
    (tmp_path / "s.classes.txt").replace(tmp_path / "classes.txt")
    assert_equal(read(tmp_path), expected)
    write(tmp_path / "t" / "t.tar", expected, max_shard_bytes=12_000)
    shards = sorted((tmp_path / "t").glob("*.tar"))
    assert len(shards) > 2
    assert all(path.stat().st_size <= 20_480 for path in shards)
    with pytest.raises(ConfigError, match="not both"):
        write(tmp_path / "u.tar", expected, num_shards=3, max_shard_bytes=1)
    with pytest.raises(ConfigError, match="impossible number of shards"):
        write(tmp_path / "u.tar", expected, num_shards=12)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")  # its files
def test_webdataset_reads_what_we_write(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    expected = held("boxes", 5)
    write(tmp_path / "a.tar", expected, num_shards=2)
    pattern = str(tmp_path / "a-{000000..000001}.tar")
    samples = list(webdataset.WebDataset(pattern, shardshuffle=False))
    assert [sample["jpg"] for sample in samples] == expected.images
    assert [len(json.loads(sample["json"])["annotations"]) for sample in samples] == [0, 1, 2, 3, 0]


def test_we_read_what_webdataset_writes(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    mask = np.arange(16 * 16, dtype=np.uint8).reshape(16, 16) % 3
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as sink:
        sink.write({"__key__": "deep/er/0001", "jpg": JPEG, "cls": 2, "txt": "left alone"})
        sink.write({"__key__": "deep/er/0002", "jpg": JPEG, "cls": 0})
    with webdataset.TarWriter(str(tmp_path / "b.tar")) as sink:
        sink.write({"__key__": "1", "jpg": JPEG, "seg.png": jpeg(mask, format="PNG")})
    found = read(tmp_path / "a.tar")
    assert found.targets().tolist() == [2, 0]
    assert found.raw(1).image == JPEG
    assert found.raw(0).name.endswith("a.tar/deep/er/0001")
    masks = read(tmp_path / "b.tar", ReadOptions(kind="mask", num_classes=3))
    np.testing.assert_array_equal(masks[0].label, mask)


def test_several_classes(make_tar: MakeTar) -> None:
    path = make_tar(("0.jpg", JPEG), ("0.json", b"[1, 0, 1]"), ("1.jpg", JPEG), ("1.json", b"[0, 0, 0]"))
    assert read(path, ReadOptions(label_format="multi-hot")).targets().tolist() == [[1, 0, 1], [0, 0, 0]]
    path = make_tar(("0.jpg", JPEG), ("0.json", b"[0, 2]"), ("1.jpg", JPEG), ("1.json", b"[]"))
    found = read(path, ReadOptions(label_format="class-id", num_classes=3))
    assert found.targets().tolist() == [[1, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names(make_tar: MakeTar, tar_format: int) -> None:
    key = "x" * 120 + "/" + "äöü" * 30
    path = make_tar((f"{key}.jpg", JPEG), (f"{key}.cls", b"1\n"), (".DS_Store", b"?"), tar_format=tar_format)
    found = read(path, ReadOptions(num_classes=2))
    assert (len(found), found[0].label) == (1, 1)
    assert found[0].name == f"{path}/{key}"


def test_a_mask_beside_another_image_and_compressed_streams(make_tar: MakeTar) -> None:
    mask = jpeg(np.ones((16, 16), np.uint8), format="PNG")
    path = make_tar(("0.jpg", JPEG), ("0.png", mask))
    options = ReadOptions(kind="mask", num_classes=2)
    assert read(path, options)[0].label.min() == 1  # type: ignore[union-attr]
    packed = path.with_name("a.tar.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    with packed.open("rb") as file:
        assert [raw.annotation for raw in iterate(file, str(packed), options)] == [mask]
    with pytest.raises(DataError, match="compressed and cannot be read by index"):
        read(packed, options)
    packed.write_bytes(packed.read_bytes()[: packed.stat().st_size // 2])
    with packed.open("rb") as file, pytest.raises(DataError, match="damaged or truncated"):
        list(iterate(file, str(packed), options))


@pytest.mark.parametrize("name", ["../x.jpg", "/etc/x.jpg", "a/../../x.jpg", "..\\x.jpg", "C:/x.jpg"])
def test_paths_that_escape(name: str, make_tar: MakeTar) -> None:
    path = make_tar(("0.jpg", JPEG), ("0.cls", b"0"), (name, JPEG))
    with pytest.raises(DataError, match="leads out of the archive") as caught:
        read(path)
    assert repr(name) in str(caught.value)
    assert str(path) in str(caught.value)
    with path.open("rb") as file, pytest.raises(DataError, match="leads out of the archive"):
        list(iterate(file, "a.tar", ReadOptions(num_classes=1)))
    assert check_path("./a/b.jpg", "a.tar") == "a/b.jpg"


@pytest.mark.parametrize("member", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices(member: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("0.jpg")
        info.type, info.linkname = member, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(DataError, match=r"'0\.jpg' is a link or a device"):
        read(tmp_path / "a.tar")


@pytest.mark.parametrize("cut", [100, 700, 1024, 2048, 3000])
def test_truncated(cut: int, make_tar: MakeTar) -> None:
    path = make_tar(("0.jpg", JPEG), ("0.cls", b"0"), ("1.jpg", JPEG), ("1.cls", b"0"))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"a\.tar is damaged or truncated at byte \d+"):
        read(path)
    with path.open("rb") as file, pytest.raises(DataError, match="damaged or truncated at byte"):
        list(iterate(file, "a.tar", ReadOptions(num_classes=1)))


def test_a_damaged_header_does_not_end_the_archive_silently(make_tar: MakeTar) -> None:
    path = make_tar(("0.jpg", JPEG), ("0.cls", b"0"), ("1.jpg", JPEG), ("1.cls", b"0"))
    content = bytearray(path.read_bytes())
    place = content.index(b"1.jpg\0")
    content[place] = ord("2")
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"truncated at byte {place}"):
        read(path)


def test_incomplete_samples(make_tar: MakeTar, tmp_path: Path) -> None:
    cases: list[tuple[tuple[tuple[str, bytes], ...], ReadOptions, str]] = [
        ((("0.jpg", JPEG),), ReadOptions(), "is not complete"),
        ((("0.cls", b"0"),), ReadOptions(), "is not complete"),
        ((("0.jpg", JPEG), ("0.cls", b"dog")), ReadOptions(), "is not JSON"),
        ((("0.jpg", JPEG), ("0.cls", b'"dog"')), ReadOptions(), "is no label"),
        ((("0.jpg", JPEG), ("0.cls", b"0.5")), ReadOptions(), "not a whole number"),
        ((("0.jpg", JPEG), ("0.json", b"{}")), ReadOptions(kind="boxes"), "no list of annotations"),
        ((("a.txt", b"x"),), ReadOptions(), "is not complete"),
        ((), ReadOptions(), "holds no samples"),
    ]
    for members, options, message in cases:
        with pytest.raises(DataError, match=message):
            read(make_tar(*members), options)
    with pytest.raises(DataError, match="there is no tar file"):
        read(tmp_path / "none.tar")


def test_names() -> None:
    assert expand("s-{000..002}.tar") == ["s-000.tar", "s-001.tar", "s-002.tar"]
    assert expand("{8..10}") == ["8", "9", "10"]
    assert expand("{a}{0..1}-{0..1}") == ["{a}0-0", "{a}0-1", "{a}1-0", "{a}1-1"]
    with pytest.raises(ConfigError, match="ends before it begins"):
        expand("{5..2}")
    assert split_key("a.b/c.seg.PNG") == ("a.b/c", "seg.png")
    assert split_key("a/.hidden.jpg") == ("a/", "")


def test_images_in_memory_become_png(tmp_path: Path) -> None:
    from lab.data.dataset import ArrayDataset

    images = np.random.default_rng(0).integers(0, 256, (3, 5, 6, 1), dtype=np.uint8)
    write(tmp_path / "a.tar", ArrayDataset(images, np.array([0, 1, 2]), LABELS, "memory"))
    found = read(tmp_path / "a.tar")
    np.testing.assert_array_equal(found[2].image, images[2])
    assert found.labels == LABELS
