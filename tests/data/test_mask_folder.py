"""Image and mask folders: pairing, label maps, and what is wrong with a mask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from lab.core.errors import DataError
from lab.data.dataset import IGNORE, ReadOptions
from lab.data.formats.mask_folder import label_map, read

THREE = ReadOptions(kind="mask", num_classes=3)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """SageMaker's channels: train/a.jpg, train/b.jpg and train_annotation/a.png, b.png."""
    for folder in ("train", "train_annotation"):
        (tmp_path / folder).mkdir()
    for stem, value in (("a", 1), ("b", 2)):
        Image.new("RGB", (4, 3)).save(tmp_path / "train" / f"{stem}.jpg")
        mask = np.full((3, 4), value, np.uint8)
        mask[0, 0] = IGNORE
        Image.fromarray(mask).save(tmp_path / "train_annotation" / f"{stem}.png")
    return tmp_path / "train"


def test_channels_are_paired(root: Path) -> None:
    dataset = read(root, THREE)
    assert (dataset.labels, dataset.kind, len(dataset)) == (("0", "1", "2"), "mask", 2)
    sample = dataset[1]
    assert sample.image.shape == (3, 4, 3)
    assert cast(np.ndarray, sample.label).tolist() == [[255, 2, 2, 2], [2, 2, 2, 2], [2, 2, 2, 2]]


def test_images_and_masks_in_one_folder(root: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "train_annotation").iterdir():
        path.replace(root / path.name)
    (tmp_path / "train_annotation").rmdir()
    assert [path.name for path in read(root, THREE).paths] == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("document", "values", "expected"),
    [
        ({"scale": "1"}, [0, 2, 255], [0, 2, 255]),
        ({"scale": "3"}, [0, 2, 3, 8, 255], [0, 0, 1, 2, 255]),
        ({"scale": 100}, [0, 100, 255], [0, 1, 2]),
        ({"map": {"0": 5, "1": 0, "2": 2}}, [0, 5, 2, 255], [1, 0, 2, 255]),
        ({"map": {"0": 5, "2": 255}}, [5, 255], [0, 2]),
    ],
)
def test_label_maps(document: Any, values: list[int], expected: list[int], tmp_path: Path) -> None:
    path = tmp_path / "train_label_map.json"
    path.write_text(json.dumps(document))
    renumber = label_map(path, 3)
    assert renumber(np.array([values], np.uint8), "m.png").tolist() == [expected]


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"scale": "0"}', '{"scale": "x"}', '{"map": {"0": 1, "1": 1}}', '{"map": {"3": 1}}',
     '{"map": {"0": 256}}', '{"map": 3}', '{"scale": "1", "map": {}}'],
)  # fmt: skip
def test_label_maps_that_are_not_understood(text: str, tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"map\.json"):
        label_map(path, 3)


def test_values_that_the_map_does_not_name(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text('{"map": {"0": 1}}')
    dataset = read(root, ReadOptions(kind="mask", num_classes=3, label_map=path))
    assert cast(np.ndarray, dataset.annotation(0))[1, 1] == 0
    with pytest.raises(DataError, match=r"b\.png: values that the label map does not name") as caught:
        dataset.annotation(1)
    assert caught.value.got == "2"


def test_missing_and_orphaned_masks(root: Path) -> None:
    masks = root.with_name("train_annotation")
    (masks / "a.png").replace(masks / "c.png")
    dataset = read(root, THREE)
    with pytest.raises(DataError, match=r"there is no mask at .*a\.png"):
        dataset[0]
    assert [fault.what for fault in dataset.faults] == [f"the mask {masks / 'c.png'} has no image"]


def test_two_images_of_one_name(root: Path) -> None:
    Image.new("RGB", (4, 3)).save(root / "a.png")
    with pytest.raises(DataError, match="same name but for the suffix"):
        read(root, THREE)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK"])
def test_colour_masks_are_refused(mode: str, root: Path) -> None:
    path = root.with_name("train_annotation") / "a.png"
    Image.new(mode, (4, 3)).save(path, format="TIFF")
    with pytest.raises(DataError, match="is not a mask"):
        read(root, THREE).annotation(0)
