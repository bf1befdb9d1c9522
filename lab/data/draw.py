"""Pictures for people: boxes and masks over an image, a sheet of several images, a mask as an indexed PNG. Pillow only.

Shape letters: H, W, C image; K objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lab.core.errors import DataError
from lab.data.dataset import IGNORE
from lab.data.preprocess import first_three

CELL_PX = 320
"""Longer side of an image on a contact sheet."""
_CAPTION_PX = 14
_MARGIN_PX = 6
_STRIPE_PX = 4


def palette(num: int) -> np.ndarray:
    """uint8 [num, 3]: Pascal VOC's colour map, in which class 0 is black (VOC development kit, VOClabelcolormap.m)."""
    index = np.arange(num)
    colours = np.zeros((num, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((index >> channel) & 1) << (7 - bit)
        index >>= 3
    return colours.astype(np.uint8)


def draw_boxes(
    image_HWC: np.ndarray,
    boxes_K4: np.ndarray,
    captions: Sequence[str] | None = None,
    colours: Sequence[tuple[int, int, int]] | np.ndarray | None = None,
) -> np.ndarray:
    """uint8 RGB with the outline of every box (corners in pixels, exclusive) and a caption at its top left.

    `colours` has one for each box; by default all are red.
    """
    picture = Image.fromarray(np.ascontiguousarray(first_three(image_HWC)))
    pen = ImageDraw.Draw(picture)
    thickness = max(1, round(max(image_HWC.shape[:2]) / 300))
    font = ImageFont.load_default(max(10, round(max(image_HWC.shape[:2]) / 40)))
    for number, (xmin, ymin, xmax, ymax) in enumerate(np.asarray(boxes_K4, np.float64).reshape(-1, 4).tolist()):
        red, green, blue = (255, 0, 0) if colours is None else (int(value) for value in colours[number])
        colour = (red, green, blue)
        pen.rectangle((xmin, ymin, max(xmin, xmax - 1), max(ymin, ymax - 1)), outline=colour, width=thickness)
        if captions is not None and captions[number]:
            _caption(pen, (xmin, ymin), captions[number], colour, font)
    return np.asarray(picture)


def overlay_mask(image_HWC: np.ndarray, mask_HW: np.ndarray, num_classes: int, alpha: float = 0.5) -> np.ndarray:
    """uint8 RGB of the image under the classes' colours; pixels to be ignored have white and magenta stripes.

    Raises:
        DataError: image and mask differ in size.
    """
    if image_HWC.shape[:2] != mask_HW.shape:
        raise DataError("image and mask differ in size", got=list(mask_HW.shape), expected=list(image_HWC.shape[:2]))
    height, width = mask_HW.shape
    colours = palette(max(num_classes, 1))[np.minimum(mask_HW, max(num_classes - 1, 0))]
    striped = (np.add.outer(np.arange(height), np.arange(width)) // _STRIPE_PX % 2).astype(bool)
    ignored = mask_HW == IGNORE
    colours[ignored & striped] = (255, 255, 255)
    colours[ignored & ~striped] = (255, 0, 255)
    blended = (1 - alpha) * first_three(image_HWC).astype(np.float32) + alpha * colours
    shown: np.ndarray = np.rint(blended).astype(np.uint8)
    return shown


def contact_sheet(images: Sequence[np.ndarray], captions: Sequence[str], columns: int = 4) -> np.ndarray:
    """uint8 [H, W, 3]: the images, scaled to cells of `CELL_PX`, in rows of `columns` with a caption below each.

    Raises:
        DataError: no images.
    """
    if not images:
        raise DataError("a contact sheet needs at least one image")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    cell_width, cell_height = CELL_PX + _MARGIN_PX, CELL_PX + _CAPTION_PX + 2 * _MARGIN_PX
    sheet = Image.new("RGB", (columns * cell_width + _MARGIN_PX, rows * cell_height + _MARGIN_PX), (255, 255, 255))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_CAPTION_PX - 2)
    for number, (image_HWC, caption) in enumerate(zip(images, captions, strict=True)):
        left = _MARGIN_PX + number % columns * cell_width
        top = _MARGIN_PX + number // columns * cell_height
        picture = Image.fromarray(np.ascontiguousarray(first_three(image_HWC)))
        scale = CELL_PX / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        sheet.paste(picture.resize(size, Image.Resampling.BILINEAR), (left, top))
        pen.text((left, top + CELL_PX + 2), _shortened(caption, font, CELL_PX), fill=(0, 0, 0), font=font)
    return np.asarray(sheet)


def mask_png(mask_HW: np.ndarray) -> bytes:
    """A mask as an indexed PNG with Pascal VOC's colours: the values are the classes, viewers show colours (SS-I3)."""
    image = Image.fromarray(np.ascontiguousarray(mask_HW, np.uint8))
    image.putpalette(palette(256).tobytes())
    buffer = BytesIO()
    image.save(buffer, "PNG", optimize=False)
    return buffer.getvalue()


def png(image_HWC: np.ndarray) -> bytes:
    """An image as PNG."""
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(first_three(image_HWC))).save(buffer, "PNG")
    return buffer.getvalue()


def _caption(
    pen: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    text: str,
    colour: tuple[int, int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    left, top, right, bottom = pen.textbbox(corner, text, font=font)
    height = bottom - corner[1] + 2
    if top >= height:  # above the box, where it hides nothing of it
        corner, top, bottom = (corner[0], corner[1] - height), top - height, bottom - height
    pen.rectangle((left, top, right + 1, bottom + 1), fill=colour)
    dark = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] < 128
    pen.text(corner, text, fill=(255, 255, 255) if dark else (0, 0, 0), font=font)


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The end of a text too long for its cell: file names differ there."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"...{text}") > width:
        text = text[1:]
    return f"...{text}"
