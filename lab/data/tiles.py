"""Data sets cut from a few large pictures: trees from the air (boxes) and land cover from space (masks).

A picture is decoded once per process and its windows are views of it.
Shape letters: H, W picture or window; K objects; N windows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from lab.artifacts.files import sha256_json
from lab.core.errors import DataError
from lab.core.seeding import stream
from lab.data.dataset import Annotation, Boxes, Kind, Sample

Window = tuple[int, int, int, int]
"""top, left, height, width in pixels"""

TREE_WINDOW = 400
TREE_OVERLAP = 100
MIN_VISIBLE = 0.3
"""A box cut by a window's border is an object where this share of it is inside, else it is to be ignored."""
TREE_TILES = {
    "train": "2019_YELL_2_528000_4978000_image_crop2",
    "test": "2019_YELL_2_541000_4977000_image_crop",
}

BLOCK = 256
MAX_LATITUDE = 70.0
TEST_FRACTION = 0.2
MAP_FILE = "bmng.jpg"
CLASS_FILE = "MCD12C1.A2019001.006.2020220162300.tif"


class Windows:
    """Windows of one picture with an annotation each; `picture` gives uint8 [H, W, C] when first asked for."""

    def __init__(
        self,
        picture: Callable[[], np.ndarray],
        windows: Sequence[Window],
        annotate: Callable[[Window], Annotation],
        *,
        kind: Kind,
        labels: Sequence[str],
        source: str,
        digest: str,
    ) -> None:
        self._load = picture
        self.windows = list(windows)
        self._annotate = annotate
        self.kind: Kind = kind
        self.labels = tuple(labels)
        self.source = source
        self.digest = digest

    @cached_property
    def _picture(self) -> np.ndarray:
        return self._load()

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Sample:
        top, left, height, width = self.windows[index]
        image_HWC = np.ascontiguousarray(self._picture[top : top + height, left : left + width])
        return Sample(image_HWC, self.annotation(index), f"{self.source}[{top},{left}]")

    def annotation(self, index: int) -> Annotation:
        return self._annotate(self.windows[index])


def open_trees(folder: Path, split: Literal["train", "test"], labels: Sequence[str], digests: Sequence[str]) -> Windows:
    """Opener of the catalog: 400 x 400 windows of one tile, neighbours sharing at least 100 pixels.

    Every tree (up to 109 pixels) is whole in some window; boxes at a border are cut there, and where less
    than 30 % is left they are to be ignored. Both tiles know one class, "Tree", which includes dead trees. Windows
    overlap, so held-out windows share pixels with training windows: the test tile, another place, is what counts.
    """
    image = folder / f"{TREE_TILES[split]}.png"
    boxes = _tile_boxes(folder / f"{TREE_TILES[split]}.xml", labels)
    with Image.open(image) as opened:
        width, height = opened.size
    return Windows(
        lambda: _decoded(image),
        grid(height, width, TREE_WINDOW, TREE_OVERLAP),
        lambda window: cut_boxes(boxes, window),
        kind="boxes",
        labels=labels,
        source=f"trees/{split}",
        digest=sha256_json([list(digests), split, TREE_WINDOW, TREE_OVERLAP, MIN_VISIBLE, list(labels)]),
    )


def open_land_cover(
    folder: Path,
    split: Literal["train", "test"],
    labels: Sequence[str],
    digests: Sequence[str],
    *,
    position: bool = False,
) -> Windows:
    """Opener of the catalog: 256 x 256 blocks of NASA's Blue Marble with MODIS land cover, 17 IGBP classes.

    Both files show the whole globe in plate carree: picture 5400 x 2700, classes 7200 x 3600. The class of a pixel is
    that of the cell its centre lies in (nearest resampling). The blocks between 70 degrees south and north are dealt
    to the splits whole, one in five to the test. A model that looks up the commonest class of each colour (32 levels a
    channel, counted on the training blocks) has mIoU 0.236 and pixel accuracy 0.882 on the test blocks.

    With `position` the images have six bands: behind red, green and blue the `place_on_globe` of each pixel, which a
    map's user knows as well as its colours. Climate, and with it what grows, depends on the place.
    """
    picture, classes = folder / MAP_FILE, folder / CLASS_FILE
    made_of = [list(digests), split, BLOCK, MAX_LATITUDE, TEST_FRACTION, list(labels)]
    with Image.open(picture) as opened:
        width, height = opened.size
    mask_HW = _LazyMask(classes, height, width)
    return Windows(
        lambda: _located(picture) if position else _decoded(picture),
        land_blocks(height, width, split),
        mask_HW.cut,
        kind="mask",
        labels=labels,
        source=f"land-cover{'-position' if position else ''}/{split}",
        digest=sha256_json([*made_of, "position"] if position else made_of),
    )


def place_on_globe(height: int, width: int) -> np.ndarray:
    """Bands of a plate carree picture of the whole globe, uint8 [H, W, 3]: where on the unit sphere each pixel lies.

    The coordinates point to 0 N 0 E, to 0 N 90 E and to the north pole, -1..1 as 0..255: without a seam in the
    Pacific, as longitude in degrees has, and with steps of half a degree.
    """
    latitude_H1 = np.pi * (0.5 - (np.arange(height)[:, None] + 0.5) / height)
    longitude_1W = np.pi * (2 * (np.arange(width)[None] + 0.5) / width - 1)
    place = np.empty((height, width, 3), np.uint8)
    for band, value_HW in enumerate(
        (
            np.cos(latitude_H1) * np.cos(longitude_1W),
            np.cos(latitude_H1) * np.sin(longitude_1W),
            np.broadcast_to(np.sin(latitude_H1), (height, width)),
        )
    ):
        place[..., band] = np.rint(127.5 * (1 + value_HW))
    return place


def _located(path: Path) -> np.ndarray:
    picture = _decoded(path)
    return np.concatenate((picture, place_on_globe(*picture.shape[:2])), axis=-1)


def grid(height: int, width: int, size: int, overlap: int) -> list[Window]:
    """The fewest evenly spread windows that cover a picture and share at least `overlap` pixels with a neighbour."""
    tops, lefts = _starts(height, size, overlap), _starts(width, size, overlap)
    return [(top, left, min(size, height), min(size, width)) for top in tops for left in lefts]


def _starts(length: int, size: int, overlap: int) -> list[int]:
    if length <= size:
        return [0]
    steps = -(-(length - size) // (size - overlap))
    return [round(number * (length - size) / steps) for number in range(steps + 1)]


def cut_boxes(boxes: Boxes, window: Window) -> Boxes:
    """The objects seen in a window, in its coordinates; those with less than `MIN_VISIBLE` inside are to be ignored."""
    top, left, height, width = window
    corners_K4 = boxes.boxes_K4 - np.array([left, top, left, top], np.float32)
    cut_K4 = np.clip(corners_K4, 0, np.array([width, height, width, height], np.float32))
    # Boxes that miss the window have no area left, whichever side they are on.
    seen_K = (cut_K4[:, 2:] - cut_K4[:, :2]).prod(axis=1) / (corners_K4[:, 2:] - corners_K4[:, :2]).prod(axis=1)
    kept = seen_K > 0
    return Boxes(cut_K4[kept], boxes.classes_K[kept], boxes.ignore_K[kept] | (seen_K[kept] < MIN_VISIBLE))


def land_blocks(height: int, width: int, split: Literal["train", "test"]) -> list[Window]:
    """The blocks of one split, in reading order."""
    first = round(height * (90 - MAX_LATITUDE) / 180)
    rows = (height - 2 * first) // BLOCK
    blocks = [
        (first + row * BLOCK, column * BLOCK, BLOCK, BLOCK) for row in range(rows) for column in range(width // BLOCK)
    ]
    order = stream(0, "land-cover", "split").permutation(len(blocks))
    num_test = round(TEST_FRACTION * len(blocks))
    chosen = order[:num_test] if split == "test" else order[num_test:]
    return [blocks[index] for index in sorted(chosen)]


class _LazyMask:
    """The class of every pixel of the picture, read when the first window is cut."""

    def __init__(self, path: Path, height: int, width: int) -> None:
        self.path = path
        self.height = height
        self.width = width

    @cached_property
    def _mask(self) -> np.ndarray:
        cells = _decoded(self.path, "L")
        rows, columns = _nearest(self.height, cells.shape[0]), _nearest(self.width, cells.shape[1])
        mask_HW: np.ndarray = cells[rows][:, columns]
        return mask_HW

    def cut(self, window: Window) -> np.ndarray:
        top, left, height, width = window
        return np.ascontiguousarray(self._mask[top : top + height, left : left + width])


def _nearest(wanted: int, found: int) -> np.ndarray:
    return (2 * np.arange(wanted) + 1) * found // (2 * wanted)


def _decoded(path: Path, mode: str = "RGB") -> np.ndarray:
    """A picture of the catalog, whose checksum is known: so large that Pillow would warn of a decompression bomb."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return np.asarray(image.convert(mode))
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(
            f"{path} cannot be decoded", got=error, hint="remove it and fetch the data set again"
        ) from error


def _tile_boxes(path: Path, labels: Sequence[str]) -> Boxes:
    from lab.data.formats.voc import parse

    found = parse(path)
    return Boxes.of(found.boxes_K4, [labels.index(name) for name in found.names], found.ignore_K)
