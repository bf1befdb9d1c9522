"""`.lst`: label columns and JSON arrays, and errors that name the line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lab.core.errors import DataError
from lab.data.dataset import ReadOptions
from lab.data.formats.lst import read, write


@pytest.fixture
def listed(tmp_path: Path, save_image: Callable[..., Path]) -> Callable[[str], Path]:
    """Write a .lst file beside a.png, b.png and sub/c.png."""
    for name in ("a.png", "b.png", "sub/c.png"):
        save_image(tmp_path / name)

    def make(text: str) -> Path:
        (tmp_path / "train.lst").write_text(text)
        return tmp_path / "train.lst"

    return make


def test_float_labels_and_nested_paths(listed: Callable[[str], Path]) -> None:
    dataset = read(listed("5\t1.000000\ta.png\r\n9\t0\tsub/c.png\n\n7\t2\tb.png\n"))
    assert dataset.targets().tolist() == [1, 0, 2]
    assert dataset.labels == ("0", "1", "2")
    assert dataset[1].image.shape == (5, 7, 3)


@pytest.mark.parametrize(
    "text", ["0\t[1, 0, 1]\ta.png\n1\t[0, 1, 0]\tb.png\n", "0\t1\t0\t1.0\ta.png\n1\t0\t1\t0\tb.png\n"]
)
def test_multi_hot_as_json_or_columns(listed: Callable[[str], Path], text: str) -> None:
    dataset = read(listed(text), ReadOptions(label_format="multi-hot"))
    assert dataset.targets().tolist() == [[1, 0, 1], [0, 1, 0]]
    assert dataset[0].label.tolist() == [1, 0, 1]  # type: ignore[union-attr]


def test_class_ids(listed: Callable[[str], Path]) -> None:
    options = ReadOptions(label_format="class-id", num_classes=4)
    dataset = read(listed("0\t[0, 2]\ta.png\n1\t[]\tb.png\n2\t3\t1\tsub/c.png\n"), options)
    assert dataset.targets().tolist() == [[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 1]]


def test_paths_are_relative_to_the_companion(listed: Callable[[str], Path], tmp_path: Path) -> None:
    path = listed("0\t0\tc.png\n")
    with pytest.raises(DataError, match="no image at"):
        read(path)
    assert len(read(path, ReadOptions(companion=tmp_path / "sub"))) == 1


def test_write_then_read(tmp_path: Path, listed: Callable[[str], Path]) -> None:
    path = listed("")
    write(path, [(1, "a.png"), (0, "sub/c.png")])
    assert path.read_text() == "0\t1\ta.png\n1\t0\tsub/c.png\n"
    assert read(path).targets().tolist() == [1, 0]
    write(path, [([1, 0], "a.png"), ([0, 1], "b.png")])
    assert read(path, ReadOptions(label_format="multi-hot")).targets().tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("0 0 a.png\n", ReadOptions(), "train.lst:1 is not a .lst line"),
        ("0\t0\ta.png\n0\t1\tb.png\n", ReadOptions(), "train.lst:2: index 0 is given twice"),
        ("0\tx\ta.png\n", ReadOptions(), "train.lst:1: the label is not a whole number"),
        ("0\t0.5\ta.png\n", ReadOptions(), "train.lst:1: the label is not a whole number"),
        ("0\t0\ta.png\n1\t3\tb.png\n", ReadOptions(num_classes=3), "train.lst:2: class index out of range"),
        ("0\t-1\ta.png\n", ReadOptions(), "train.lst:1: class index out of range"),
        ("0\t0\ta.png\n1\t2\tb.png\n", ReadOptions(), "not consecutive"),
        ("0\t0\t1\ta.png\n", ReadOptions(), "train.lst:1: more or fewer than one label"),
        ("0\t[0, 2]\ta.png\n", ReadOptions(label_format="multi-hot"), "train.lst:1: not a multi-hot label"),
        ("0\t[1, 0]\ta.png\n1\t[1]\tb.png\n", ReadOptions(label_format="multi-hot"), "train.lst:2: not a multi-hot"),
        ("0\t[1, \ta.png\n", ReadOptions(label_format="class-id"), "train.lst:1: the label is not a JSON array"),
        ("0\t0\tnone.png\n", ReadOptions(), "train.lst:1: there is no image at"),
        ("", ReadOptions(), "lists no images"),
    ],
)
def test_errors_name_the_line(listed: Callable[[str], Path], text: str, options: ReadOptions, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read(listed(text), options)
    assert message in caught.value.what


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \.lst file at"):
        read(tmp_path / "none.lst")
