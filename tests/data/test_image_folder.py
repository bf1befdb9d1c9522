"""Image folders: classes from folders, any depth, any case, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.core.errors import DataError
from lab.data.dataset import ReadOptions
from lab.data.formats.image_folder import read


def test_classes_are_the_sorted_folders_and_images_lie_at_any_depth(image_root: Path) -> None:
    dataset = read(image_root)
    assert dataset.labels == ("ant", "bee", "cat")
    assert dataset.targets().tolist() == [0, 0, 1, 1, 2, 2]
    assert [path.name for path in dataset.paths] == ["1.png", "2.JPG"] * 3
    sample = dataset[2]
    assert sample.image.shape == (5, 7, 3)
    assert sample.image[0, 0].tolist() == [10, 0, 0]
    assert sample.name.endswith("bee/1.png")


def test_given_labels_fix_the_order(image_root: Path) -> None:
    dataset = read(image_root, ReadOptions(labels=("cat", "bee", "ant", "dog")))
    assert dataset.targets().tolist() == [0, 0, 1, 1, 2, 2]
    assert dataset.paths[0].parts[-2] == "cat"


def test_unknown_class_suggests_the_near_one(image_root: Path) -> None:
    with pytest.raises(DataError, match="not a known class") as caught:
        read(image_root, ReadOptions(labels=("ant", "bees", "cat")))
    assert caught.value.hint == "did you mean 'bees'?"


def test_class_without_images_is_refused_in_training(image_root: Path) -> None:
    (image_root / "dog").mkdir()
    with pytest.raises(DataError, match="dog has no images"):
        read(image_root)
    assert len(read(image_root, ReadOptions(labels=("ant", "bee", "cat", "dog")))) == 6


def test_other_number_of_classes(image_root: Path) -> None:
    with pytest.raises(DataError, match="another number of classes") as caught:
        read(image_root, ReadOptions(num_classes=5))
    assert (caught.value.got, caught.value.expected) == ("3 folders", "5")


def test_missing_or_flat_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image folder"):
        read(tmp_path / "none")
    with pytest.raises(DataError, match="no class folders"):
        read(tmp_path)


def test_digest_follows_the_content(image_root: Path) -> None:
    before = read(image_root).digest
    assert read(image_root).digest == before
    path = image_root / "ant" / "1.png"
    path.write_bytes(path.read_bytes() + b"\0")
    assert read(image_root).digest != before


def test_digest_of_a_huge_set_is_marked_as_a_listing(image_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.data.dataset.MAX_HASHED_BYTES", 10)
    assert read(image_root).digest.startswith("listing-")
