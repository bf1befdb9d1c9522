"""IDX: round trip of every dtype, and a clear error for every way a file can be wrong."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lab.core.errors import DataError
from lab.data.dataset import ReadOptions
from lab.data.formats.idx import find_labels, read, read_idx, write_idx

DTYPES = ["uint8", "int8", "int16", "int32", "float32", "float64"]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Seven images of 5 x 3 pixels in four classes."""
    images, labels = tmp_path / "train-images-idx3-ubyte", tmp_path / "train-labels-idx1-ubyte"
    write_idx(images, np.arange(7 * 5 * 3, dtype=np.uint8).reshape(7, 5, 3))
    write_idx(labels, np.array([0, 1, 2, 3, 0, 1, 2], np.uint8))
    return images, labels


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), dtype=st.sampled_from(DTYPES), compressed=st.booleans())
def test_write_then_read_gives_the_same_array(
    tmp_path: Path, data: st.DataObject, dtype: str, compressed: bool
) -> None:
    array = data.draw(hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=4, max_side=5)))
    path = tmp_path / ("a.gz" if compressed else "a.idx")
    write_idx(path, array)
    found = read_idx(path)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_header_is_the_published_one(pair: tuple[Path, Path]) -> None:
    assert pair[0].read_bytes()[:16].hex() == "00000803" + "00000007" + "00000005" + "00000003"
    assert pair[1].read_bytes()[:8].hex() == "00000801" + "00000007"


def test_read_finds_the_label_file_and_numbers_the_classes(pair: tuple[Path, Path]) -> None:
    dataset = read(pair[0])
    assert (len(dataset), dataset.labels) == (7, ("0", "1", "2", "3"))
    assert dataset.targets().tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert dataset.targets().dtype == np.int64
    sample = dataset[2]
    assert (sample.image.shape, sample.label) == ((5, 3, 1), 2)
    assert sample.image[0, :, 0].tolist() == [30, 31, 32]


def test_compression_does_not_depend_on_the_name(pair: tuple[Path, Path]) -> None:
    pair[0].write_bytes(gzip.compress(pair[0].read_bytes()))
    assert len(read(pair[0])) == 7


def test_label_file_may_be_compressed_beside_plain_images(pair: tuple[Path, Path]) -> None:
    target = pair[1].with_name(pair[1].name + ".gz")
    target.write_bytes(gzip.compress(pair[1].read_bytes()))
    pair[1].unlink()
    assert find_labels(pair[0]) == target


@pytest.mark.parametrize(
    ("shape", "expected"), [((2, 5, 7, 3), (5, 7, 3)), ((2, 3, 5, 7), (5, 7, 3)), ((2, 5, 7), (5, 7, 1))]
)
def test_rank_and_channel_place(tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    write_idx(tmp_path / "images", np.zeros(shape, np.uint8))
    write_idx(tmp_path / "labels", np.array([0, 1], np.int32))
    assert read(tmp_path / "images")[0].image.shape == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, 1.0], [0, 255]), ([0.0, 254.0], [0, 254])],
    ids=["floats in 0..1 are scaled", "whole floats are pixels"],
)
def test_float_pixels(tmp_path: Path, values: list[float], expected: list[int]) -> None:
    write_idx(tmp_path / "images", np.array(values, np.float32).reshape(1, 1, 2))
    write_idx(tmp_path / "labels", np.array([0], np.uint8))
    assert read(tmp_path / "images")[0].image.ravel().tolist() == expected


def test_multi_hot_labels_of_rank_two(tmp_path: Path) -> None:
    write_idx(tmp_path / "images", np.zeros((2, 5, 3), np.uint8))
    write_idx(tmp_path / "labels", np.array([[1, 0, 1], [0, 0, 1]], np.uint8))
    dataset = read(tmp_path / "images")
    assert dataset.targets().tolist() == [[1, 0, 1], [0, 0, 1]]
    assert dataset.targets().dtype == np.float32
    assert len(dataset.labels) == 3


def test_truncated_file_says_how_many_bytes(pair: tuple[Path, Path]) -> None:
    pair[0].write_bytes(pair[0].read_bytes()[:-4])
    with pytest.raises(DataError, match="truncated") as caught:
        read(pair[0])
    assert caught.value.got == "117 bytes"
    assert str(caught.value.expected).startswith("121 bytes")
    assert str(pair[0]) in caught.value.what


def test_longer_file_is_refused(pair: tuple[Path, Path]) -> None:
    pair[0].write_bytes(pair[0].read_bytes() + b"\0")
    with pytest.raises(DataError, match="longer than its header"):
        read(pair[0])


def test_truncated_gzip(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    write_idx(path, np.arange(1000, dtype=np.int32))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="truncated or damaged"):
        read_idx(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file"),
        (b"\x89PNG\r\n", "not an IDX file"),
        (b"\0\0\x07\x01\0\0\0\0", "unknown IDX dtype"),
        (b"\0\0\x08\x03\0\0", "truncated in its header"),
    ],
)
def test_not_idx(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_idx(tmp_path / "x")


def test_missing_files_are_named(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    with pytest.raises(DataError, match="there is no IDX file at"):
        read(tmp_path / "none", ReadOptions(companion=pair[1]))
    pair[1].unlink()
    with pytest.raises(DataError, match="no label file beside") as caught:
        read(pair[0])
    assert "train-labels-idx1-ubyte" in str(caught.value.expected)


def test_class_index_out_of_range_names_file_and_record(pair: tuple[Path, Path]) -> None:
    with pytest.raises(DataError, match="class index out of range") as caught:
        read(pair[0], ReadOptions(num_classes=3))
    assert str(pair[1]) in caught.value.what
    assert caught.value.got == "class 3 at record 3 (1 such records)"
    assert caught.value.expected == "0..2"


def test_negative_class_index(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    write_idx(tmp_path / "other", np.array([0, 1, -1, 0, 0, 0, 0], np.int16))
    with pytest.raises(DataError, match="class index out of range"):
        read(pair[0], ReadOptions(companion=tmp_path / "other"))


def test_different_counts(pair: tuple[Path, Path]) -> None:
    write_idx(pair[1], np.array([0, 1], np.uint8))
    with pytest.raises(DataError, match="differ in number") as caught:
        read(pair[0])
    assert "7 images" in str(caught.value.got)
    assert "2 labels" in str(caught.value.got)


def test_pixels_out_of_range(tmp_path: Path) -> None:
    write_idx(tmp_path / "images", np.full((1, 2, 2), 300, np.int16))
    write_idx(tmp_path / "labels", np.array([0], np.uint8))
    with pytest.raises(DataError, match="not pixels"):
        read(tmp_path / "images")
