"""SageMaker's JSON per image: the format of its documentation, categories, and what is missing or clashes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from lab.core.errors import DataError
from lab.data.dataset import Boxes, ReadOptions
from lab.data.formats.sagemaker_json import read

ROW = {"class_id": 0, "left": 111, "top": 134, "width": 61, "height": 128}


def document(*rows: dict[str, Any], names: dict[int, str] | None = None) -> dict[str, Any]:
    made: dict[str, Any] = {
        "file": "your_image_directory/sample_image1.jpg",
        "image_size": [{"width": 500, "height": 400, "depth": 3}],
        "annotations": list(rows),
    }
    if names is not None:
        made["categories"] = [{"class_id": index, "name": name} for index, name in names.items()]
    return made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two images, one in a folder of its own, with SageMaker's channel names."""
    for stem, names in (("one", {0: "dog"}), ("deep/two", {1: "cat"})):
        for folder, suffix in (("train", "jpg"), ("train_annotation", "json")):
            path = tmp_path / folder / f"{stem}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if suffix == "jpg":
                Image.new("RGB", (500, 400)).save(path)
            else:
                path.write_text(json.dumps(document(ROW, names=names)))
    return tmp_path / "train"


def test_documented_example(root: Path) -> None:
    dataset = read(root, ReadOptions(kind="boxes"))
    assert dataset.labels == ("dog", "cat")
    assert [path.name for path in dataset.paths] == ["two.jpg", "one.jpg"]
    boxes = cast(Boxes, dataset[1].label)
    np.testing.assert_array_equal(boxes.boxes_K4, [[111, 134, 172, 262]])
    assert (boxes.classes_K.tolist(), boxes.ignore_K.tolist()) == ([0], [False])


def test_classes_without_names(root: Path) -> None:
    for path in root.with_name("train_annotation").rglob("*.json"):
        path.write_text(json.dumps(document(ROW | {"class_id": 2})))
    assert read(root).labels == ("0", "1", "2")
    assert read(root, ReadOptions(num_classes=5)).labels == ("0", "1", "2", "3", "4")
    with pytest.raises(DataError, match="class index out of range"):
        read(root, ReadOptions(kind="boxes", labels=("dog", "cat"))).annotation(0)


def test_missing_orphaned_and_clashing_files(root: Path) -> None:
    annotations = root.with_name("train_annotation")
    (annotations / "deep" / "two.json").replace(annotations / "three.json")
    dataset = read(root)
    with pytest.raises(DataError, match="there is no annotation file at"):
        dataset[0]
    assert [fault.what for fault in dataset.faults] == [f"{annotations / 'three'}.json has no image"]
    (annotations / "deep" / "two.json").write_text(json.dumps(document(ROW, names={0: "hound"})))
    with pytest.raises(DataError, match="class 0 has another name") as caught:
        read(root).annotation(1)
    assert (caught.value.got, caught.value.expected) == ("dog", "hound")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "has no list of annotations"),
        (json.dumps(document({"class_id": 0})), "annotation 0 is not understood"),
        (json.dumps(document() | {"image_size": [{"width": 3}]}), "the image size is not understood"),
        (json.dumps(document() | {"image_size": [{"width": 5, "height": 4}]}), "an image of another size"),
        (json.dumps(document() | {"categories": [3]}), "the categories are not understood"),
    ],
)
def test_broken_files(content: str, message: str, root: Path) -> None:
    path = root.with_name("train_annotation") / "one.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        read(root).annotation(1)
    assert str(path) in caught.value.what
