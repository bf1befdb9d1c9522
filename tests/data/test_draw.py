"""Pictures: VOC's colours, outlines on the right pixels, ignored pixels that show, sheets of every count."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from lab.core.errors import DataError
from lab.data.dataset import IGNORE
from lab.data.decode import decode_mask
from lab.data.draw import CELL_PX, contact_sheet, draw_boxes, mask_png, overlay_mask, palette, png

GREY = np.full((40, 60, 1), 100, np.uint8)


def test_palette_is_voc_s() -> None:
    expected = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128)]
    assert palette(7).tolist() == [list(colour) for colour in expected]
    assert palette(256)[255].tolist() == [224, 224, 192]
    assert len(np.unique(palette(256), axis=0)) == 256


def test_outline_is_inside_the_box() -> None:
    drawn = draw_boxes(GREY, np.array([[10, 5, 20, 30]]), colours=[(255, 0, 0)])
    assert (drawn.dtype, drawn.shape) == (np.uint8, (40, 60, 3))
    red = (drawn == (255, 0, 0)).all(axis=2)
    expected = np.zeros((40, 60), bool)
    expected[5:30, 10:20] = True
    expected[6:29, 11:19] = False
    np.testing.assert_array_equal(red, expected)
    np.testing.assert_array_equal(drawn[~red], 100)
    captioned = draw_boxes(GREY, np.array([[10, 5, 20, 30]]), ["a bee"], [(255, 0, 0)])
    assert (captioned != drawn).any()
    np.testing.assert_array_equal(draw_boxes(GREY, np.zeros((0, 4))), np.repeat(GREY, 3, axis=2))
    assert (GREY == 100).all()


def test_overlay_mixes_and_stripes() -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[:, 20:40], mask[:, 40:] = 1, IGNORE
    shown = overlay_mask(GREY, mask, 2, alpha=0.5)
    assert (shown[:, :20] == 50).all()
    assert (shown[:, 20:40] == (114, 50, 50)).all()
    colours = {tuple(colour) for colour in shown[:, 40:].reshape(-1, 3).tolist()}
    assert colours == {(178, 178, 178), (178, 50, 178)}
    with pytest.raises(DataError, match="differ in size"):
        overlay_mask(GREY, mask[:5], 2)


@pytest.mark.parametrize("num", [1, 4, 5])
def test_contact_sheet(num: int) -> None:
    images = [np.full((20 + number, 10, 1), 40 * number, np.uint8) for number in range(num)]
    sheet = contact_sheet(images, [f"a very long name of a file {number}" * 4 for number in range(num)])
    rows, columns = -(-num // 4), min(num, 4)
    assert sheet.dtype == np.uint8
    assert sheet.shape[0] // (CELL_PX + 20) == rows
    assert sheet.shape[1] // CELL_PX == columns
    assert (sheet[50, 50] == 0).all()
    with pytest.raises(DataError, match="at least one image"):
        contact_sheet([], [])


def test_png_bytes() -> None:
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    content = mask_png(mask)
    np.testing.assert_array_equal(decode_mask(content, "m"), mask)
    with Image.open(BytesIO(content)) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image.convert("RGB"))[0, 1], [128, 0, 0])
    with Image.open(BytesIO(png(GREY))) as image:
        assert (image.mode, image.size) == ("RGB", (60, 40))
