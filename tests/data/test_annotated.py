"""Annotations in files meet their images: EXIF rotation, stated sizes, rounding over the border."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from PIL import Image, ImageOps

from lab.core.errors import DataError
from lab.data.annotated import AnnotatedFiles, Item
from lab.data.dataset import Boxes, Kind
from lab.data.listing import read_mask

STORED_HW = (12, 20)
BOX = (3, 2, 9, 4)


def save_rotated(path: Path, orientation: int) -> np.ndarray:
    """A JPEG file with an EXIF orientation whose stored pixels are white in BOX; returns the upright grey pixels."""
    stored = Image.new("L", STORED_HW[::-1])
    stored.paste(255, BOX)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(path, exif=exif, quality=95)
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image))


def dataset_of(item: Item, kind: Kind) -> AnnotatedFiles:
    return AnnotatedFiles([item], kind, ("a", "b"), "test", item.image.parent, [])


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_annotations_of_the_stored_grid_are_turned_with_the_picture(orientation: int, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    upright = save_rotated(path, orientation)
    bright = np.argwhere(upright > 128)
    (top, left), (bottom, right) = bright.min(axis=0), bright.max(axis=0) + 1
    stored = Boxes.of([BOX], [1], [True])
    for size in (STORED_HW, STORED_HW[::-1]):
        boxes = stored if size == STORED_HW else Boxes.of([[left, top, right, bottom]], [1], [True])
        sample = dataset_of(Item(path, "a.xml", size, boxes), "boxes")[0]
        assert sample.image.shape[:2] == upright.shape == STORED_HW[::-1]
        found = cast(Boxes, sample.label)
        np.testing.assert_array_equal(found.boxes_K4, [[left, top, right, bottom]])
        assert (found.classes_K.tolist(), found.ignore_K.tolist()) == ([1], [True])


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_masks_of_the_stored_grid_are_turned_with_the_picture(orientation: int, tmp_path: Path) -> None:
    path, mask_path = tmp_path / "a.jpg", tmp_path / "a.png"
    upright = save_rotated(path, orientation) > 128
    stored = np.zeros(STORED_HW, np.uint8)
    stored[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 1
    for mask in (stored, upright.astype(np.uint8)):
        Image.fromarray(mask).save(mask_path)
        dataset = dataset_of(Item(path, "a.png", mask=partial(read_mask, mask_path)), "mask")
        np.testing.assert_array_equal(cast(np.ndarray, dataset[0].label), upright)
        np.testing.assert_array_equal(cast(np.ndarray, dataset.annotation(0)), upright)


def test_boxes_clipped_by_rounding_and_refused_beyond(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (20, 12)).save(path)
    inside = dataset_of(Item(path, "a.xml", None, Boxes.of([[-1, 0, 20.5, 12]], [0])), "boxes")
    np.testing.assert_array_equal(cast(Boxes, inside.annotation(0)).boxes_K4, [[0, 0, 20, 12]])
    rows = [[0, 0, 30, 12], [5, 5, 5, 9], [1, 1, 4, 4], [float("nan"), 0, 3, 3]]
    broken = dataset_of(Item(path, "a.xml", None, Boxes.of(rows, [0, 0, 7, 0])), "boxes")
    with pytest.raises(DataError, match=r"a\.xml"):
        broken.annotation(0)
    found = [error.what for error in broken.errors(0)]
    assert [what.partition(", object ")[2].partition(":")[0] for what in found] == ["1", "2", "3", "4"]
    assert [
        "lies outside" in found[0],
        "has no area" in found[1],
        "out of range" in found[2],
        "lies outside" in found[3],
    ] == [True] * 4


@pytest.mark.parametrize("size", [(12, 21), (20, 12), (1, 1)])
def test_another_size_than_the_image_is_refused(size: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (20, 12)).save(path)
    dataset = dataset_of(Item(path, "a.xml", size, Boxes.of([], [])), "boxes")
    with pytest.raises(DataError, match="an image of another size") as caught:
        dataset[0]
    assert "a.xml" in caught.value.what
    assert "12 x 20" in str(caught.value.expected)
