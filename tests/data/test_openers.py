"""VOC and COCO of the catalog, laid out as their archives unpack: splits, classes, torchvision's recipe for masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from lab.data.catalog import UNPACKED, VOC_LABELS
from lab.data.dataset import IGNORE, Boxes
from lab.data.formats import voc
from lab.data.resolve import open_dataset
from tests.data.held import Held, jpeg, noise


@pytest.mark.parametrize(
    ("name", "year", "subsets"), [("voc2007", 2007, ("trainval", "test")), ("voc2012", 2012, ("train", "val"))]
)
def test_voc(name: str, year: int, subsets: tuple[str, str], tmp_path: Path) -> None:
    folder = tmp_path / name / "VOCdevkit" / f"VOC{year}"
    image = jpeg(noise(0, 20, 30))
    mask = np.full((20, 30), 20, np.uint8)
    mask[0] = IGNORE
    for number, subset in enumerate(subsets):
        boxes = Boxes.of([[number, 0, 9, 9]], [19], [True])
        for kind, labels, label in (("boxes", VOC_LABELS, boxes), ("mask", ("background", *VOC_LABELS), mask)):
            part = tmp_path / f"{subset}-{kind}"
            voc.write(part, Held(cast(Any, kind), [image], [label], labels), subset)
            for path in part.rglob("*.*"):
                target = folder / path.relative_to(part)
                target = target if path.suffix == ".txt" else target.with_stem(f"{subset}")
                target.parent.mkdir(parents=True, exist_ok=True)
                text = path.read_text().replace("000000", subset) if path.suffix in (".txt", ".xml") else None
                target.write_bytes(path.read_bytes() if text is None else text.encode())
    (folder / "labels.txt").unlink()
    (tmp_path / name / UNPACKED).write_text("{}")
    for number, split in enumerate(("train", "test")):
        found = open_dataset(name, cast(Any, split), tmp_path, kind="boxes")
        label = cast(Boxes, found[0].label)
        assert (len(found), found.labels, label.classes_K.tolist()) == (1, VOC_LABELS, [19])
        assert (label.boxes_K4.tolist(), label.ignore_K.tolist()) == ([[number, 0, 9, 9]], [True])
        masked = open_dataset(name, cast(Any, split), tmp_path, kind="mask")
        assert masked.labels == ("background", *VOC_LABELS)
        np.testing.assert_array_equal(cast(np.ndarray, masked[0].label), mask)


def test_coco(tmp_path: Path) -> None:
    folder = tmp_path / "coco2017"
    square, overlapping = [[0, 0, 40, 0, 40, 40, 0, 40]], [[20, 0, 60, 0, 60, 40, 20, 40]]
    rows = [
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, 40, 40], "area": 1600, "iscrowd": 0, "segmentation": square},
        {"image_id": 1, "category_id": 2, "bbox": [20, 0, 40, 40], "area": 1600, "segmentation": overlapping},
        {"image_id": 1, "category_id": 90, "bbox": [0, 0, 9, 0], "area": 0, "segmentation": square},
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 1, "iscrowd": 1,
         "segmentation": {"size": [50, 80], "counts": [3000, 1000]}},
        {"image_id": 2, "category_id": 90, "bbox": [0, 0, 9, 9], "area": 4000, "segmentation": square},
    ]  # fmt: skip
    document = {
        "images": [{"id": number, "file_name": f"{number}.jpg", "height": 50, "width": 80} for number in (1, 2)],
        "annotations": [{"id": number, "iscrowd": 0} | row for number, row in enumerate(rows)],
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "bicycle"}, {"id": 90, "name": "toothbrush"}],
    }
    for part in ("train2017", "val2017"):
        (folder / part).mkdir(parents=True)
        for number in (1, 2):
            Image.new("RGB", (80, 50)).save(folder / part / f"{number}.jpg")
        path = folder / "annotations" / f"instances_{part}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(document))
    (folder / UNPACKED).write_text("{}")
    boxes = open_dataset("coco2017", "test", tmp_path)
    assert (boxes.labels, len(boxes)) == (("person", "bicycle", "toothbrush"), 2)
    first = cast(Boxes, boxes.annotation(0))
    assert (first.classes_K.tolist(), first.ignore_K.tolist()) == ([0, 1, 0], [False, False, True])
    train, test = (open_dataset("coco2017", cast(Any, split), tmp_path, kind="mask") for split in ("train", "test"))
    assert (len(train), len(test)) == (1, 2)  # the toothbrush is none of VOC's classes
    mask_HW = cast(np.ndarray, train[0].label)
    person, bicycle = VOC_LABELS.index("person") + 1, VOC_LABELS.index("bicycle") + 1
    expected = np.zeros((50, 80), np.uint8)
    expected[:40, :20], expected[:40, 20:40], expected[:40, 40:60] = person, IGNORE, bicycle
    np.testing.assert_array_equal(mask_HW, expected)
    assert not cast(np.ndarray, test.annotation(1)).any()
