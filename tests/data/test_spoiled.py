"""`lab data check` on a data set spoiled in every way we know: finds each fault, names file and reason, and no more."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lab.core.errors import DataError
from lab.data.check import check
from lab.data.dataset import Boxes, ImageDataset, Kind, ReadOptions
from lab.data.formats import WRITERS
from lab.data.guess import open_path
from tests.data.held import LABELS, Held, held, jpeg, noise

NUM = 20
Expected = dict[str, list[str]]
"""File name -> a part of each reason."""


def sound(kind: Kind) -> Held:
    """Twenty images of 24 x 32; of boxes one in the middle each, of masks three classes and a stripe to be ignored."""
    mask = np.repeat(np.array([0, 1, 2, 255], np.uint8), 8)[None].repeat(24, axis=0)
    label: Any = mask if kind == "mask" else Boxes.of([[8, 6, 20, 18]], [1])
    return Held(kind, [jpeg(noise(index, 24, 32)) for index in range(NUM)], [label] * NUM, LABELS)


def spoil_images(images: Path) -> tuple[Expected, Expected]:
    """What can be wrong or unusual with the image files 000000.jpg to 000007.jpg: (broken, notes)."""
    paths = [images / f"{number:06d}.jpg" for number in range(8)]
    paths[0].write_bytes(paths[0].read_bytes()[:300])
    paths[1].write_bytes(b"")
    paths[2].unlink()
    paths[3].write_text("no image")
    Image.fromarray(noise(4, 24, 32, 1).astype(np.uint16) << 8).save(paths[4], format="PNG")
    Image.fromarray(noise(5, 24, 32)).convert("CMYK").save(paths[5])
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(noise(6, 24, 32)).save(paths[6], exif=exif)
    Image.fromarray(noise(7, 24, 32)).convert("RGBA").save(paths[7], format="PNG")
    broken = {
        "000000.jpg": ["cannot be decoded"],
        "000001.jpg": ["an empty file"],
        "000002.jpg": ["there is no image"],
        "000003.jpg": ["no known image format"],
    }
    notes = {
        "000004.jpg": ["16 bits"],
        "000005.jpg": ["CMYK"],
        "000006.jpg": ["EXIF orientation 3"],
        "000007.jpg": ["transparent"],
    }
    return broken, notes


def assert_found(dataset: ImageDataset, broken: Expected, notes: Expected) -> None:
    report = check(dataset)
    for found, expected in ((report.broken, broken), (report.notes, notes)):
        wanted = [(name, reason) for name, reasons in expected.items() for reason in reasons]
        unmet = [pair for pair in wanted if not any(pair[0] in name and pair[1] in reason for name, reason in found)]
        extra = [(name, reason) for name, reason in found if not any(n in name and r in reason for n, r in wanted)]
        assert unmet == []
        assert extra == []
        assert len(found) == len(wanted)
    assert not report.ok


BAD_BOXES: list[tuple[list[float], str]] = [
    ([10, 6, 50, 18], "lies outside the image"),
    ([-9, 6, 20, 18], "lies outside the image"),
    ([40, 40, 50, 50], "lies outside the image"),
    ([8, 6, 8, 18], "has no area"),
    ([20, 6, 8, 18], "has no area"),
]


def spoil_coco(root: Path) -> tuple[Expected, Expected]:
    path = root / "annotations.json"
    document = json.loads(path.read_text())
    rows = document["annotations"]
    broken: Expected = {}
    for number, (corners, reason) in enumerate(BAD_BOXES, 8):
        xmin, ymin, xmax, ymax = corners
        rows[number]["bbox"] = [xmin, ymin, xmax - xmin, ymax - ymin]
        broken[f"{number:06d}.jpg"] = [reason]
    rows[13]["category_id"] = 4
    rows[14]["bbox"] = [1, 2, "x", 4]
    document["images"][15]["width"] = 33
    document["images"][16]["file_name"] = "../../000016.jpg"
    rows[17] |= {"image_id": 99}
    rows[18]["bbox"] = [8, 6, 2, 12]
    rows.append(rows[19] | {"id": 100})
    path.write_text(json.dumps(document))
    broken |= {
        "000013.jpg": ["unknown category"],
        "000014.jpg": ["malformed"],
        "000015.jpg": ["an image of another size"],
        "000016.jpg": ["leads out of the folder"],
        "annotations.json": ["belongs to no image"],
    }
    return broken, {"000018.jpg": ["1 boxes with a side below 4 pixels"], "000019.jpg": ["1 boxes are given twice"]}


def spoil_voc(root: Path) -> tuple[Expected, Expected]:
    files = [root / "Annotations" / f"{number:06d}.xml" for number in range(NUM)]
    broken: Expected = {}

    def change(number: int, old: str, new: str) -> None:
        text = files[number].read_text()
        assert old in text
        files[number].write_text(text.replace(old, new))

    for number, (corners, reason) in enumerate(BAD_BOXES, 8):
        for key, old, new in zip(("xmin", "ymin", "xmax", "ymax"), (9, 7, 20, 18), corners, strict=True):
            shift = 1 if key.endswith("min") else 0
            change(number, f"<{key}>{old}</{key}>", f"<{key}>{int(new) + shift}</{key}>")
        broken[f"{number:06d}.jpg"] = [reason]
    change(13, "<name>bee</name>", "<name>wasp</name>")
    change(14, "<xmin>9</xmin>", "<xmin>nine</xmin>")
    change(15, "<width>32</width>", "<width>33</width>")
    change(16, "</annotation>", "")
    change(17, "<annotation>", '<!DOCTYPE x [<!ENTITY a "aaaa">]><annotation>')
    change(18, "<xmax>20</xmax>", "<xmax>10</xmax>")
    files[19].unlink()
    (root / "ImageSets").rename(root / "lists")
    (root / "Annotations" / "000020.xml").write_text("<annotation></annotation>")
    broken |= {
        "000013.jpg": ["'wasp' is not a known class"],
        "000014.jpg": ["'nine', not a number"],
        "000015.jpg": ["an image of another size"],
        "000016.jpg": ["is not XML"],
        "000017.jpg": ["is refused"],
        "000020.jpg": ["there is no image"],
    }
    return broken, {"000018.jpg": ["1 boxes with a side below 4 pixels"], "VOC": ["1 images without an XML file"]}


def spoil_sagemaker(root: Path) -> tuple[Expected, Expected]:
    files = [root / "annotations" / f"{number:06d}.json" for number in range(NUM)]
    documents = [json.loads(path.read_text()) for path in files]
    broken: Expected = {}
    for number, (corners, reason) in enumerate(BAD_BOXES, 8):
        xmin, ymin, xmax, ymax = corners
        documents[number]["annotations"][0] |= {
            "left": xmin, "top": ymin, "width": xmax - xmin, "height": ymax - ymin,
        }  # fmt: skip
        broken[f"{number:06d}.jpg"] = [reason]
    documents[13]["annotations"][0]["class_id"] = 3
    documents[14]["annotations"][0].pop("left")
    documents[15]["image_size"][0]["width"] = 33
    documents[18]["annotations"][0]["width"] = 2
    for path, document in zip(files, documents, strict=True):
        path.write_text(json.dumps(document))
    files[16].write_text("{")
    files[17].unlink()
    files[2].rename(files[2].with_name("orphan.json"))  # its image is missing too, so that only this is left to find
    broken |= {
        "000013.jpg": ["class index out of range"],
        "000014.jpg": ["is not understood"],
        "000015.jpg": ["an image of another size"],
        "000016.jpg": ["is not JSON"],
        "000017.jpg": ["there is no annotation file"],
        "": ["orphan.json has no image"],
    }
    return broken, {"000018.jpg": ["1 boxes with a side below 4 pixels"]}


@pytest.mark.parametrize(
    ("name", "spoil"),
    [("coco", spoil_coco), ("voc", spoil_voc), ("sagemaker_json", spoil_sagemaker)],
    ids=["coco", "voc", "sagemaker_json"],
)
def test_boxes(name: str, spoil: Callable[[Path], tuple[Expected, Expected]], tmp_path: Path) -> None:
    root = tmp_path / "VOC"
    WRITERS[name](root, sound("boxes"))
    broken, notes = spoil_images(root / ("JPEGImages" if name == "voc" else "images"))
    more_broken, more_notes = spoil(root)
    if name == "sagemaker_json":  # pairs by image: one that is not there is only seen by its annotation
        broken.pop("000002.jpg")
    format_name, dataset = open_path(root, ReadOptions())
    assert format_name == name
    assert_found(dataset, broken | more_broken, notes | more_notes)
    broken_names = [number for number in range(len(dataset)) if dataset.errors(number)]  # type: ignore[attr-defined]
    for number in broken_names:
        with pytest.raises(DataError):
            dataset[number]


def spoil_masks(masks: Path, images: Path) -> Expected:
    files = [masks / f"{number:06d}.png" for number in range(NUM)]

    def save(number: int, mask: np.ndarray) -> None:
        Image.fromarray(mask).save(files[number])

    save(8, np.zeros((48, 64), np.uint8))
    save(9, np.zeros((12, 16), np.uint8))
    files[10].unlink()
    save(11, np.full((24, 32), 3, np.uint8))
    save(12, np.zeros((24, 32, 3), np.uint8))
    files[13].write_bytes(files[13].read_bytes()[:60])
    files[14].write_bytes(b"")
    save(15, np.full((24, 32), 300, np.uint16))
    broken = {
        "000008.jpg": ["the mask has another size"],
        "000009.jpg": ["the mask has another size"],
        "000010.jpg": ["there is no mask"],
        "000011.jpg": ["class index out of range: 3"],
        "000012.jpg": ["is not a mask"],
        "000013.jpg": ["cannot be decoded"],
        "000014.jpg": ["an empty file"],
        "000015.jpg": ["is not a mask"],
    }
    if images.name == "images":
        files[16].rename(masks / "orphan.png")
        broken["000016.jpg"] = ["there is no mask"]
        broken["VOC"] = ["orphan.png has no image"]
    return broken


@pytest.mark.parametrize("name", ["voc", "mask_folder"])
def test_masks(name: str, tmp_path: Path) -> None:
    root = tmp_path / "VOC"
    WRITERS[name](root, sound("mask"))
    images, masks = (
        (root / "JPEGImages", root / "SegmentationClass") if name == "voc" else (root / "images", root / "masks")
    )
    broken, notes = spoil_images(images)
    options = ReadOptions()
    if name == "mask_folder":  # pairs by image: of one that is not there only the mask is left
        broken.pop("000002.jpg")
        (masks / "000002.png").unlink()
    else:
        options = ReadOptions(subset="train")
    broken |= spoil_masks(masks, images)
    format_name, dataset = open_path(root, options)
    assert (format_name, dataset.kind) == (name, "mask")
    assert_found(dataset, broken, notes)


def test_coco_masks(tmp_path: Path) -> None:
    root = tmp_path / "VOC"
    WRITERS["coco"](root, sound("mask"))
    broken, notes = spoil_images(root / "images")
    path = root / "annotations.json"
    document = json.loads(path.read_text())
    rows = {row["image_id"] - 1: row for row in document["annotations"]}
    rows[8]["segmentation"]["counts"] = "P"
    rows[9]["segmentation"]["counts"] = [3, 4]
    rows[10]["segmentation"] |= {"size": [48, 64], "counts": [48 * 64]}
    rows[11]["category_id"] = 9
    document["images"][12]["height"] = 23
    path.write_text(json.dumps(document))
    broken |= {
        "000008.jpg": ["malformed"],
        "000009.jpg": ["malformed"],
        "000010.jpg": ["a mask of another size"],
        "000011.jpg": ["unknown category"],
        "000012.jpg": ["a mask of another size"],
    }
    _, dataset = open_path(root, ReadOptions())
    assert_found(dataset, broken, notes)


def test_truncated_recordio(tmp_path: Path) -> None:
    path = tmp_path / "a.rec"
    WRITERS["rec"](path, sound("boxes"))
    path.write_bytes(path.read_bytes()[:-100])
    _, dataset = open_path(path, ReadOptions(num_classes=3))
    report = check(dataset)
    assert [name for name, _ in report.broken] == [f"{path}[{NUM - 1}]"]
    assert str(path) in report.broken[0][1]


def test_tar_with_a_path_that_escapes(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("0.jpg", "../0.cls"):
            info = tarfile.TarInfo(name)
            info.size = 1
            archive.addfile(info, io.BytesIO(b"0"))
    with pytest.raises(DataError) as caught:
        open_path(path, ReadOptions())
    assert str(path) in caught.value.what
    assert "../0.cls" in caught.value.message()


def test_a_sound_set_has_nothing_to_find(tmp_path: Path) -> None:
    for kind, name in (
        ("boxes", "coco"),
        ("boxes", "voc"),
        ("mask", "mask_folder"),
        ("mask", "coco"),
        ("boxes", "rec"),
    ):
        path = tmp_path / f"{kind}-{name}.rec"
        WRITERS[name](path, held(kind))  # type: ignore[arg-type]
        report = check(open_path(path, ReadOptions())[1])
        assert (report.broken, report.kind) == ((), kind)
        assert [remark for _, remark in report.notes if "below" not in remark] == []
