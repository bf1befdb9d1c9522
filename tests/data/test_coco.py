"""COCO: categories, crowds, outlines of all kinds, where images are, and files that are refused or faulty."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from lab.core.errors import DataError
from lab.data import rle
from lab.data.dataset import IGNORE, Boxes, ReadOptions
from lab.data.formats.coco import open_boxes, open_masks, read

BOXES, MASK = ReadOptions(kind="boxes"), ReadOptions(kind="mask")
SQUARE = [[2, 1, 6, 1, 6, 4, 2, 4]]


def document(*annotations: dict[str, Any]) -> dict[str, Any]:
    """One image of 8 x 10 (height x width); categories 7 cat, 3 dog, 90 cow."""
    rows = [{"id": number, "image_id": 5, "category_id": 7} | row for number, row in enumerate(annotations, 1)]
    return {
        "images": [{"id": 5, "file_name": "a.png", "height": 8, "width": 10}],
        "annotations": rows,
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}, {"id": 90, "name": "cow"}],
    }


def save(folder: Path, content: Any, images: str = "") -> Path:
    (folder / images).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (10, 8)).save(folder / images / "a.png")
    path = folder / "annotations" / "instances_val2017.json" if images else folder / "instances.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_boxes_and_categories_in_the_order_of_their_ids(tmp_path: Path) -> None:
    rows = ({"bbox": [1, 2, 3.5, 4]}, {"bbox": [0, 0, 10, 8], "category_id": 90, "iscrowd": 1})
    dataset = read(save(tmp_path, document(*rows)), BOXES)
    assert dataset.labels == ("dog", "cat", "cow")
    boxes = cast(Boxes, dataset[0].label)
    np.testing.assert_array_equal(boxes.boxes_K4, [[1, 2, 4.5, 6], [0, 0, 10, 8]])
    assert (boxes.classes_K.tolist(), boxes.ignore_K.tolist()) == ([1, 2], [False, True])
    chosen = read(tmp_path / "instances.json", ReadOptions(kind="boxes", labels=("cow", "cat")))
    assert cast(Boxes, chosen.annotation(0)).classes_K.tolist() == [1, 0]


@pytest.mark.parametrize("images", ["val2017", "images", "images/val2017"])
def test_images_are_found_in_the_usual_places(images: str, tmp_path: Path) -> None:
    path = save(tmp_path, document(), images)
    assert read(path, BOXES)[0].image.shape == (8, 10, 3)


def test_outlines_of_every_kind(tmp_path: Path) -> None:
    inside_HW = np.zeros((8, 10), bool)
    inside_HW[1:4, 2:6] = True
    runs = rle.to_runs(inside_HW)
    outlines = [
        SQUARE,
        {"size": [8, 10], "counts": runs.tolist()},
        {"size": [8, 10], "counts": rle.compress(runs)},
    ]
    for outline in outlines:
        dataset = read(save(tmp_path, document({"segmentation": outline})), MASK)
        assert dataset.labels == ("background", "dog", "cat", "cow")
        np.testing.assert_array_equal(cast(np.ndarray, dataset.annotation(0)), inside_HW * 2)


def test_later_objects_lie_over_earlier_ones_and_crowds_are_ignored(tmp_path: Path) -> None:
    left, right = [[0, 0, 5, 0, 5, 8, 0, 8]], [[3, 0, 10, 0, 10, 8, 3, 8]]
    crowd = {"size": [8, 10], "counts": [72, 8]}
    rows = (
        {"segmentation": left},
        {"segmentation": right, "category_id": 3},
        {"segmentation": crowd, "iscrowd": 1},
    )
    path = save(tmp_path, document(*rows))
    expected = [2, 2, 2, 1, 1, 1, 1, 1, 1, IGNORE]
    np.testing.assert_array_equal(cast(np.ndarray, read(path, MASK).annotation(0)), [expected] * 8)
    with pytest.raises(DataError, match="unknown category"):
        read(path, ReadOptions(kind="mask", labels=("other", "dog"))).annotation(0)
    every = read(path, ReadOptions(kind="mask", labels=("dog", "cat", "cow"))).annotation(0)
    np.testing.assert_array_equal(cast(np.ndarray, every), [[1, 1, 1, 0, 0, 0, 0, 0, 0, IGNORE]] * 8)
    only = open_masks(path, None, ReadOptions(kind="mask", labels=("other", "dog")), category_ids=(3,)).annotation(0)
    np.testing.assert_array_equal(cast(np.ndarray, only), [[0, 0, 0, 1, 1, 1, 1, 1, 1, 1]] * 8)
    recipe = open_masks(path, None, MASK, category_ids=(7, 3), overlap="ignore", crowds="skip")
    expected = [1, 1, 1, IGNORE, IGNORE, 2, 2, 2, 2, 2]
    np.testing.assert_array_equal(cast(np.ndarray, recipe.annotation(0)), [expected] * 8)


def test_a_category_that_stands_for_no_object_is_the_background(tmp_path: Path) -> None:
    content = document({"segmentation": SQUARE})
    content["categories"].append({"id": 0, "name": "_background_"})
    dataset = read(save(tmp_path, content), MASK)
    assert dataset.labels == ("_background_", "dog", "cat", "cow")
    assert sorted(np.unique(cast(np.ndarray, dataset.annotation(0))).tolist()) == [0, 2]


def test_images_with_few_labelled_pixels_are_left_out(tmp_path: Path) -> None:
    path = save(tmp_path, document({"segmentation": SQUARE, "area": 12}))
    assert len(open_masks(path, None, MASK, min_pixels=11)) == 1
    left_out = open_masks(path, None, MASK, min_pixels=12)
    assert (len(left_out), left_out.notes) == (0, ("1 images with at most 12 labelled pixels are left out",))


def test_boxes_without_area_are_refused_or_left_out(tmp_path: Path) -> None:
    path = save(tmp_path, document({"bbox": [1, 2, 0, 4]}, {"bbox": [1, 2, 3, 4]}))
    with pytest.raises(DataError, match="has no area"):
        read(path, BOXES).annotation(0)
    kept = open_boxes(path, None, BOXES, drop_empty=True)
    assert len(cast(Boxes, kept.annotation(0))) == 1
    assert kept.notes == ("1 boxes without area are left out",)


@pytest.mark.parametrize(
    ("row", "kind", "got"),
    [
        ({}, "boxes", "no 'bbox'"),
        ({"bbox": [1, 2, 3]}, "boxes", "unpack"),
        ({"bbox": [1, 2, 3, "x"]}, "boxes", "could not convert"),
        ({}, "mask", "no 'segmentation'"),
        ({"segmentation": []}, "mask", "fewer than three corners"),
        ({"segmentation": [[1, 2, 3, 4]]}, "mask", "fewer than three corners"),
        ({"segmentation": [[1, 2, 3, 4, 5]]}, "mask", "reshape"),
        ({"segmentation": {"size": [8, 10], "counts": [3]}}, "mask", "the runs add up to 3"),
        ({"segmentation": {"size": [8, 10], "counts": "P"}}, "mask", "cut off"),
        ({"segmentation": 3}, "mask", "iterable"),
    ],
)
def test_malformed_objects_are_named(row: dict[str, Any], kind: Any, got: str, tmp_path: Path) -> None:
    dataset = read(
        save(tmp_path, document({"bbox": [1, 2, 3, 4], "segmentation": SQUARE}, row)), ReadOptions(kind=kind)
    )
    with pytest.raises(DataError, match=r"\(a.png\): annotation 2 is malformed") as caught:
        dataset.annotation(0)
    assert got in str(caught.value.got)


def test_mask_of_another_size(tmp_path: Path) -> None:
    path = save(tmp_path, document({"segmentation": {"size": [10, 8], "counts": [80]}}))
    with pytest.raises(DataError, match="another size"):
        read(path, MASK).annotation(0)


def test_unknown_category_and_escaping_name(tmp_path: Path) -> None:
    content = document({"bbox": [1, 2, 3, 4], "category_id": 4})
    with pytest.raises(DataError, match="annotation 1 has an unknown category") as caught:
        read(save(tmp_path, content), BOXES).annotation(0)
    assert caught.value.got == 4
    for name in ("../a.png", "/etc/passwd", "", None):
        content["images"][0]["file_name"] = name
        dataset = read(save(tmp_path, content), BOXES)
        with pytest.raises(DataError, match="leads out of the folder"):
            dataset[0]


def test_faults_that_belong_to_no_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = document({"bbox": [1, 2, 3, 4], "image_id": 6}, {"bbox": [1, 2, 3, 4]})
    content["images"].append(content["images"][0])
    dataset = read(save(tmp_path, content), BOXES)
    assert [fault.what.partition(": ")[2] for fault in dataset.faults] == [
        "annotation 1 belongs to no image",
        "1 image ids are given more than once",
    ]
    assert len(dataset) == 1
    assert "belongs to no image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message", "got"),
    [
        ('{"images": [\n}', "cannot be read as JSON", "line 2"),
        ("[" * 100_000, "cannot be read as JSON", ""),
        ("[]", "is not a COCO file of objects", ""),
        ('{"images": [], "annotations": [], "categories": [3]}', "is not a COCO file of objects", ""),
        ('{"images": [{}], "annotations": [], "categories": []}', "has no id or name", "id"),
    ],
)
def test_broken_files(text: str, message: str, got: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read(path, BOXES)
    assert str(path) in caught.value.what
    assert got in str(caught.value.got)


def test_number_of_categories_is_checked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="another number of categories"):
        read(save(tmp_path, document()), ReadOptions(kind="boxes", num_classes=2))
    with pytest.raises(DataError, match="there is no COCO file"):
        read(tmp_path / "none.json", BOXES)
