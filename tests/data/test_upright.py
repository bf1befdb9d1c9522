"""Annotations of turned pictures: masks turn as Pillow turns pictures, boxes as the masks of their insides."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageOps

from lab.core.errors import DataError
from lab.data.dataset import Boxes
from lab.data.decode import Geometry, decode
from lab.data.raw import RawSample, decode_annotation, decode_sample
from lab.data.upright import is_turned, turn_boxes, turn_mask
from tests.data.held import jpeg, noise

HEIGHT, WIDTH = 20, 36


def picture(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(noise(0, HEIGHT, WIDTH), exif=exif)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_masks_and_boxes_turn_with_the_picture(orientation: int) -> None:
    mask_HW = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask_HW[3:9, 10:30] = 1
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = BytesIO()
    Image.fromarray(mask_HW).save(buffer, "PNG", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(buffer)))
    np.testing.assert_array_equal(turn_mask(mask_HW, orientation), expected)
    rows, columns = np.nonzero(expected)
    corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    turned = turn_boxes(Boxes.of([[10, 3, 30, 9]], [0]), Geometry((HEIGHT, WIDTH), orientation))
    assert turned.boxes_K4.tolist() == [corners]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_samples_are_upright(orientation: int) -> None:
    image = picture(orientation)
    height, width = decode(image, "a").shape[:2]
    swapped = (height, width) != (HEIGHT, WIDTH)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:, :5] = 2
    stored = RawSample(image, jpeg(mask, format="PNG"), "a", 0)
    found = decode_sample(stored, 3).label
    np.testing.assert_array_equal(found, turn_mask(mask, orientation) if swapped else mask)
    boxes = Boxes.of([[1, 2, 5, 6]], [0])
    upright = decode_annotation(RawSample(image, boxes, "a", 0, (height, width)))
    assert isinstance(upright, Boxes)
    assert upright.boxes_K4.tolist() == [[1, 2, 5, 6]]
    turned = decode_annotation(RawSample(image, boxes, "a", 0, (HEIGHT, WIDTH)))
    assert isinstance(turned, Boxes)
    assert (turned.boxes_K4.tolist() != [[1, 2, 5, 6]]) == swapped
    with pytest.raises(DataError, match="an image of another size"):
        decode_annotation(RawSample(image, boxes, "a", 0, (HEIGHT + 1, WIDTH)))


def test_a_transposed_box_by_hand() -> None:
    turned = decode_annotation(RawSample(picture(5), Boxes.of([[1, 2, 5, 9]], [0]), "a", 0, (HEIGHT, WIDTH)))
    assert isinstance(turned, Boxes)
    assert turned.boxes_K4.tolist() == [[2, 1, 9, 5]]


def test_which_annotations_turn() -> None:
    turned, square = Geometry((20, 36), 6), Geometry((20, 20), 6)
    assert is_turned((20, 36), turned, "a")
    assert not any((is_turned((36, 20), turned, "a"), is_turned(None, turned, "a"), is_turned((20, 20), square, "a")))
