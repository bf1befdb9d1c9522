"""Pascal VOC: corners counted from 1, difficult objects, lists, plain folders, and XML that is refused."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
from PIL import Image

from lab.core.errors import DataError
from lab.data.dataset import Boxes, ReadOptions
from lab.data.formats.voc import parse, read

BOXES = ReadOptions(kind="boxes")


def xml(*objects: str, size: tuple[int, int] | None = (20, 30), filename: str = "a.jpg") -> str:
    stated = f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>" if size else ""
    return f"<annotation><filename>{filename}</filename>{stated}{''.join(objects)}</annotation>"


def obj(name: str, box: tuple[float, float, float, float], difficult: int | None = 0) -> str:
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    hard = f"<difficult>{difficult}</difficult>" if difficult is not None else ""
    return f"<object><name>{name}</name>{hard}<bndbox>{corners}</bndbox></object>"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three images: a (dog, difficult cat), b (cat), c (nothing); a list of a and c; a mask of a."""
    folder = tmp_path / "VOC"
    for name in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Main", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    for stem in "abc":
        Image.new("RGB", (30, 20)).save(folder / "JPEGImages" / f"{stem}.jpg")
    (folder / "Annotations/a.xml").write_text(xml(obj("dog", (1, 1, 30, 20)), obj("cat", (5, 6, 7, 8), 1)))
    (folder / "Annotations/b.xml").write_text(xml(obj("cat", (2.5, 3, 9, 9), None)))
    (folder / "Annotations/c.xml").write_text(xml())
    (folder / "ImageSets/Main/train.txt").write_text("a  1\nc -1\n")
    (folder / "ImageSets/Segmentation/val.txt").write_text("a\n")
    mask = Image.fromarray(np.full((20, 30), 2, np.uint8))
    mask.putpalette(bytes(range(256)) * 3)
    mask.save(folder / "SegmentationClass/a.png")
    return folder


def test_corners_are_exclusive_and_counted_from_0(root: Path) -> None:
    dataset = read(root, BOXES)
    assert (dataset.labels, len(dataset), dataset.kind) == (("cat", "dog"), 3, "boxes")
    boxes = cast(Boxes, dataset[0].label)
    np.testing.assert_array_equal(boxes.boxes_K4, [[0, 0, 30, 20], [4, 5, 7, 8]])
    assert (boxes.classes_K.tolist(), boxes.ignore_K.tolist()) == ([1, 0], [False, True])
    np.testing.assert_array_equal(cast(Boxes, dataset.annotation(1)).boxes_K4, [[1.5, 2, 9, 9]])
    assert len(cast(Boxes, dataset.annotation(2))) == 0
    assert dataset[0].image.shape == (20, 30, 3)


def test_subset_and_given_classes(root: Path) -> None:
    dataset = read(root, ReadOptions(kind="boxes", subset="train", labels=("dog", "cat", "cow")))
    assert [path.name for path in dataset.paths] == ["a.jpg", "c.jpg"]
    assert cast(Boxes, dataset.annotation(0)).classes_K.tolist() == [0, 1]
    with pytest.raises(DataError, match="there is no list") as caught:
        read(root, ReadOptions(kind="boxes", subset="trian"))
    assert caught.value.expected == "train"
    other = read(root, ReadOptions(kind="boxes", labels=("dgo",)))
    with pytest.raises(DataError, match="'dog' is not a known class") as unknown:
        other.annotation(0)
    assert unknown.value.hint == "did you mean 'dgo'?"


def test_masks(root: Path) -> None:
    dataset = read(root, ReadOptions(kind="mask", subset="val", labels=("background", "cat", "dog")))
    assert len(dataset) == 1
    np.testing.assert_array_equal(cast(np.ndarray, dataset[0].label), np.full((20, 30), 2))
    with pytest.raises(DataError, match="does not say how many classes"):
        read(root, ReadOptions(kind="mask"))
    with pytest.raises(DataError, match="class index out of range"):
        read(root, ReadOptions(kind="mask", num_classes=2)).annotation(0)


def test_plain_folder(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    Image.new("RGB", (30, 20)).save(folder / "a.png")
    Image.new("RGB", (30, 20)).save(folder / "unlabelled.png")
    (folder / "a.xml").write_text(xml(obj("dog", (1, 1, 30, 20)), filename="C:\\somewhere\\else.png"))
    dataset = read(folder, BOXES)
    assert [path.name for path in dataset.paths] == ["a.png"]
    assert dataset.notes == ("1 images without an XML file are left out",)
    assert "1 images without an XML file are left out" in capsys.readouterr().err


def test_folders_of_labelling_tools(root: Path, tmp_path: Path) -> None:
    (root / "JPEGImages").rename(root / "images")
    (root / "Annotations").rename(root / "annotations")
    dataset = read(root, BOXES)
    assert [path.relative_to(root).as_posix() for path in dataset.paths] == [
        "images/a.jpg",
        "images/b.jpg",
        "images/c.jpg",
    ]
    assert len(cast(Boxes, dataset[0].label)) == 2


def test_digest_changes_with_annotation_image_and_names(root: Path) -> None:
    digests = [read(root, BOXES).digest]
    assert digests == [read(root, BOXES).digest]
    digests.append(read(root, ReadOptions(kind="boxes", labels=("dog", "cat"))).digest)
    (root / "Annotations/c.xml").write_text(xml(obj("cat", (1, 1, 2, 2))))
    digests.append(read(root, BOXES).digest)
    Image.new("RGB", (30, 20), (9, 9, 9)).save(root / "JPEGImages/c.jpg")
    digests.append(read(root, BOXES).digest)
    assert len(set(digests)) == 4


@pytest.mark.parametrize(
    ("text", "message", "got"),
    [
        ("<annotation>", "is not XML", "no element found in line 1"),
        ("<annotation>\n<object>\n</annotation>", "is not XML", "mismatched tag in line 3"),
        ("", "is not XML", "no element found in line 1"),
        ("<html/>", "is no VOC annotation", "<html>"),
        ('<!DOCTYPE a [<!ENTITY x "xx">]>\n<annotation>&x;</annotation>', "is refused", "declaration in line 1"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', "is refused", "declaration in line 1"),
        ("<annotation>&x;</annotation>", "is not XML", "undefined entity in line 1"),
    ],
)
def test_broken_xml_is_refused_with_line_and_reason(text: str, message: str, got: str, tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        parse(path)
    assert str(path) in caught.value.what
    assert got in str(caught.value.got)


def test_broken_objects_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text(xml("<object/>", obj("dog", (1, 1, 2, 2)), obj("cat", ("one", 2, 3, 4)), obj("", (1, 1, 2, 2))))  # type: ignore[arg-type]
    found = parse(path)
    assert found.names == ("dog",)
    assert [str(error.got) for error in found.errors] == [
        "<bndbox/xmin> is '', not a number",
        "<bndbox/xmin> is 'one', not a number",
        "no <name>",
    ]
    assert "object 3 is not understood" in found.errors[1].what


def test_list_that_leads_out_of_the_folder(root: Path) -> None:
    (root / "ImageSets/Main/bad.txt").write_text("../../../etc/passwd\n")
    with pytest.raises(DataError, match="leads out of the folder"):
        read(root, ReadOptions(kind="boxes", subset="bad"))
