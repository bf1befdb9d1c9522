"""Augmented manifests: SageMaker's three kinds of lines, round trips, and errors that name the line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab.core.errors import DataError
from lab.data.dataset import Boxes, ReadOptions
from lab.data.formats.manifest import base_of, read, resolve, write
from tests.data.held import assert_equal, held, jpeg, noise

WriteLines = Callable[..., Path]


@pytest.fixture
def listed(tmp_path: Path) -> WriteLines:
    """Write lines (dicts or text) beside 1.jpg (20 x 30), 2.jpg and mask.png."""
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / name).write_bytes(jpeg(noise(1, 20, 30)))
    (tmp_path / "mask.png").write_bytes(jpeg(np.ones((20, 30), np.uint8), format="PNG"))

    def make(*lines: Any) -> Path:
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        (tmp_path / "train.manifest").write_text(text + "\n")
        return tmp_path / "train.manifest"

    return make


@pytest.mark.parametrize("kind", ["class", "boxes", "mask"])
def test_round_trip(kind: Any, tmp_path: Path) -> None:
    expected = held(kind)
    write(tmp_path / "a.manifest", expected)
    assert_equal(read(tmp_path / "a.manifest", ReadOptions(kind=kind)), expected)


def test_classes_of_ground_truth(listed: WriteLines, tmp_path: Path) -> None:
    path = listed(
        {"source-ref": "1.jpg", "my-job": 1, "my-job-metadata": {"class-name": "bee", "type": "groundtruth/image"}},
        "",
        {"source-ref": f"file://{tmp_path}/2.jpg", "my-job": 0, "my-job-metadata": {"class-name": "ant"}},
        {"source-ref": str(tmp_path / "2.jpg"), "my-job": "1"},
    )
    found = read(path)
    assert (found.labels, found.targets().tolist()) == (("ant", "bee"), [1, 0, 1])
    assert found[1].image.shape == (20, 30, 3)


@pytest.mark.parametrize(("text", "label_format"), [("[1, 0, 1]", "multi-hot"), ("[0, 2]", "class-id")])
def test_several_classes(listed: WriteLines, text: str, label_format: Any) -> None:
    other = "[0, 0, 0]" if label_format == "multi-hot" else "[]"
    path = listed({"source-ref": "1.jpg", "class": text}, {"source-ref": "2.jpg", "class": json.loads(other)})
    found = read(path, ReadOptions(label_format=label_format, num_classes=3))
    assert found.targets().tolist() == [[1, 0, 1], [0, 0, 0]]


def test_boxes_and_masks_of_sagemaker(listed: WriteLines) -> None:
    document = {
        "image_size": [{"width": 30, "height": 20, "depth": 3}],
        "annotations": [{"class_id": 1, "left": 3, "top": 4, "width": 10, "height": 5}],
    }
    path = listed(
        {
            "source-ref": "1.jpg",
            "bounding-box": document,
            "bounding-box-metadata": {"class-map": {"0": "dog", "1": "cat"}, "type": "groundtruth/object-detection"},
        }
    )
    found = read(path, ReadOptions(kind="boxes"))
    assert found.labels == ("dog", "cat")
    boxes = found.annotation(0)
    assert isinstance(boxes, Boxes)
    assert (boxes.boxes_K4.tolist(), boxes.classes_K.tolist()) == ([[3, 4, 13, 9]], [1])
    colours = {"0": {"class-name": "road", "hex-color": "#000000"}, "1": {"class-name": "sky"}}
    path = listed(
        {
            "source-ref": "1.jpg",
            "city-streets-ref": "mask.png",
            "city-streets-ref-metadata": {"internal-color-map": colours},
        }
    )
    masks = read(path, ReadOptions(kind="mask"))
    assert masks.labels == ("road", "sky")
    np.testing.assert_array_equal(masks[0].label, np.ones((20, 30), np.uint8))


@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        ('{"source-ref": "1.jpg", "class": ', "class", r"train\.manifest:2 is not JSON"),
        ("[1]", "class", r"manifest:2 names no image"),
        ({"class": 1}, "class", r"manifest:2 names no image"),
        ({"source-ref": "1.jpg"}, "class", r"manifest:2: which attribute"),
        ({"source-ref": "1.jpg", "a": 1, "b": 2}, "class", r"manifest:2: which attribute"),
        ({"source-ref": "1.jpg", "class": "dog"}, "class", r"manifest:2: the label is not JSON"),
        ({"source-ref": "1.jpg", "class": '["dog"]'}, "class", r"manifest:2: the label is no number"),
        ({"source-ref": "1.jpg", "class": "[0, 1]"}, "class", r"manifest:2: more or fewer"),
        ({"source-ref": "1.jpg", "class": 0}, "boxes", r"manifest:2: which attribute"),
        ({"source-ref": "1.jpg", "b": {"annotations": [{"left": 1}]}}, "boxes", r"manifest:2: annotation 0 is not"),
        ({"source-ref": "1.jpg", "class": 0, "class-metadata": {"class-name": "bee"}}, "class", "names class 0 other"),
    ],
)
def test_broken_lines(listed: WriteLines, line: Any, kind: Any, message: str) -> None:
    good = {
        "class": {"source-ref": "1.jpg", "class": 0, "class-metadata": {"class-name": "ant"}},
        "boxes": {"source-ref": "1.jpg", "b": {"annotations": []}},
    }[kind]
    with pytest.raises(DataError, match=message):
        read(listed(good, line), ReadOptions(kind=kind))


def test_wrong_samples_are_named_when_asked_for(listed: WriteLines) -> None:
    def boxes(**values: float) -> dict[str, Any]:
        annotation = {"class_id": 0, "left": 1, "top": 1, "width": 5, "height": 5} | values
        return {"source-ref": "1.jpg", "b": {"annotations": [annotation]}}

    lines = [boxes(), boxes(width=99), boxes(height=0), boxes(class_id=3), boxes(left=-1), boxes(width=float("nan"))]
    dataset = read(
        listed(*lines, {"source-ref": "none.jpg", "b": {"annotations": []}}), ReadOptions(kind="boxes", num_classes=2)
    )
    assert len(dataset[0].label) == 1  # type: ignore[arg-type]
    assert dataset[4].label.boxes_K4.tolist() == [[0, 1, 4, 6]]  # type: ignore[union-attr]
    wrong = {
        1: "lies outside",
        2: "has no area",
        3: "out of range",
        5: "lies outside",
        6: "there is no image|cannot be",
    }
    for index, message in wrong.items():
        with pytest.raises(DataError, match=message) as caught:
            dataset[index]
        assert f"train.manifest:{index + 1}" in str(caught.value)
        with pytest.raises(DataError, match=message):
            dataset.annotation(index)


def test_a_mask_of_another_size_or_colour(listed: WriteLines, tmp_path: Path) -> None:
    (tmp_path / "small.png").write_bytes(jpeg(np.zeros((10, 30), np.uint8), format="PNG"))
    (tmp_path / "rgb.png").write_bytes(jpeg(np.zeros((20, 30, 3), np.uint8), format="PNG"))
    (tmp_path / "high.png").write_bytes(jpeg(np.full((20, 30), 7, np.uint8), format="PNG"))
    names = ["mask.png", "small.png", "rgb.png", "high.png", "none.png"]
    path = listed(*({"source-ref": "1.jpg", "m-ref": name} for name in names))
    with pytest.raises(DataError, match="does not say how many classes"):
        read(path, ReadOptions(kind="mask"))
    dataset = read(path, ReadOptions(kind="mask", num_classes=2))
    assert dataset[0].label.shape == (20, 30)  # type: ignore[union-attr]
    for index, message in enumerate(("another size", "is not a mask", "out of range", "cannot be opened"), 1):
        with pytest.raises(DataError, match=message) as caught:
            dataset[index]
        assert f":{index + 1}" in str(caught.value)


def test_references() -> None:
    assert resolve("a/1.jpg", "s3://b/c") == "s3://b/c/a/1.jpg"
    assert resolve("s3://x/1.jpg", "/data") == "s3://x/1.jpg"
    assert base_of("http://host/a/train.manifest", ReadOptions()) == "http://host/a"
    assert base_of("train.manifest", ReadOptions(companion=Path("/images"))) == "/images"
