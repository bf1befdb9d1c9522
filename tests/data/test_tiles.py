"""Windows of large pictures: they cover, boxes are cut with them, blocks are dealt once."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lab.data.dataset import Boxes
from lab.data.tiles import (
    CLASS_FILE,
    MAP_FILE,
    TREE_TILES,
    cut_boxes,
    grid,
    land_blocks,
    open_land_cover,
    open_trees,
    place_on_globe,
)


@given(st.integers(1, 900), st.integers(1, 900), st.integers(50, 300), st.integers(0, 49))
def test_grid_covers_and_overlaps(height: int, width: int, size: int, overlap: int) -> None:
    windows = grid(height, width, size, overlap)
    covered = np.zeros((height, width), bool)
    for top, left, tall, wide in windows:
        assert 0 <= top <= height - tall
        assert 0 <= left <= width - wide
        covered[top : top + tall, left : left + wide] = True
    assert covered.all()
    tops = sorted({window[0] for window in windows})
    assert all(size - (b - a) >= overlap for a, b in pairwise(tops))


def test_boxes_are_cut_at_the_border_and_slivers_ignored() -> None:
    boxes = Boxes.of([[10, 10, 20, 20], [0, 0, 12, 10], [35, 30, 45, 40], [90, 90, 95, 95]], [0, 1, 2, 0])
    cut = cut_boxes(boxes, (5, 8, 30, 30))
    np.testing.assert_array_equal(cut.boxes_K4, [[2, 5, 12, 15], [0, 0, 4, 5], [27, 25, 30, 30]])
    assert cut.classes_K.tolist() == [0, 1, 2]
    assert cut.ignore_K.tolist() == [False, True, True]  # 100 %, 17 % and 15 % inside


def test_land_blocks_are_dealt_once_between_the_latitudes() -> None:
    train, test = land_blocks(2700, 5400, "train"), land_blocks(2700, 5400, "test")
    assert (len(train), len(test)) == (134, 34)
    assert len(set(train) | set(test)) == 168
    tops = [block[0] for block in train + test]
    assert min(tops) == 300  # 70 degrees north
    assert max(tops) + 256 <= 2400


def test_trees_from_a_tile(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (500, 700, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"{TREE_TILES['test']}.png")
    (tmp_path / f"{TREE_TILES['test']}.xml").write_text(
        "<annotation><object><name>Tree</name><difficult>0</difficult>"
        "<bndbox><xmin>391</xmin><ymin>21</ymin><xmax>430</xmax><ymax>60</ymax></bndbox></object></annotation>"
    )
    trees = open_trees(tmp_path, "test", ("Tree",), ["abc"])
    assert trees.windows == [(0, 0, 400, 400), (0, 300, 400, 400), (100, 0, 400, 400), (100, 300, 400, 400)]
    np.testing.assert_array_equal(trees[3].image, pixels[100:500, 300:700])
    found = [cast(Boxes, trees.annotation(index)) for index in range(4)]
    assert [len(boxes) for boxes in found] == [1, 1, 0, 0]
    np.testing.assert_array_equal(found[0].boxes_K4, [[390, 20, 400, 60]])
    np.testing.assert_array_equal(found[1].boxes_K4, [[90, 20, 130, 60]])
    assert (found[0].ignore_K[0], found[1].ignore_K[0]) == (True, False)
    assert trees.digest != open_trees(tmp_path, "test", ("Tree",), ["abd"]).digest


def test_land_cover_takes_the_nearest_cell(tmp_path: Path) -> None:
    height, width = 1320, 600  # 7 rows of blocks would not fit between the latitudes: 3 x 2 do
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / MAP_FILE, format="PNG")
    cells = np.add.outer(np.arange(1760), np.arange(800)) % 17
    Image.fromarray(cells.astype(np.uint8)).save(tmp_path / CLASS_FILE)
    labels = [str(index) for index in range(17)]
    blocks = open_land_cover(tmp_path, "train", labels, ["abc"])
    assert len(blocks) + len(open_land_cover(tmp_path, "test", labels, ["abc"])) == 8
    top, left, _, _ = blocks.windows[-1]
    sample = blocks[len(blocks) - 1]
    np.testing.assert_array_equal(sample.image, pixels[top : top + 256, left : left + 256])
    row, column = top + 100, left + 30
    cell = (int((row + 0.5) * 1760 / height), int((column + 0.5) * 800 / width))
    assert cast(np.ndarray, sample.label)[100, 30] == cells[cell]


def test_places_on_the_globe() -> None:
    height, width = 180, 360
    place = place_on_globe(height, width).astype(np.float64) / 127.5 - 1
    np.testing.assert_allclose(np.linalg.norm(place, axis=-1), 1, atol=0.01)  # on the unit sphere
    np.testing.assert_allclose(place[90, 180], [1, 0, 0], atol=0.02)  # 0 N, 0 E
    np.testing.assert_allclose(place[90, 270], [0, 1, 0], atol=0.02)  # 0 N, 90 E
    np.testing.assert_allclose(place[0, 77], [0, 0, 1], atol=0.02)  # the north pole
    np.testing.assert_allclose(place[60, 0], place[60, -1], atol=0.02)  # no seam at 180 degrees
    assert (np.abs(np.diff(place[:, :, 2], axis=0)) < 0.03).all()


def test_land_cover_with_positions(tmp_path: Path) -> None:
    height, width = 1320, 600
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / MAP_FILE, format="PNG")
    cells = np.add.outer(np.arange(1760), np.arange(800)) % 17
    Image.fromarray(cells.astype(np.uint8)).save(tmp_path / CLASS_FILE)
    labels = [str(number) for number in range(17)]
    plain = open_land_cover(tmp_path, "test", labels, ["abc"])
    located = open_land_cover(tmp_path, "test", labels, ["abc"], position=True)
    assert located.digest != plain.digest
    assert located.windows == plain.windows
    place = place_on_globe(height, width)
    for index, (top, left, tall, wide) in enumerate(located.windows):
        np.testing.assert_array_equal(located[index].image[..., :3], plain[index].image)
        np.testing.assert_array_equal(located[index].image[..., 3:], place[top : top + tall, left : left + wide])
        np.testing.assert_array_equal(cast(np.ndarray, located[index].label), cast(np.ndarray, plain[index].label))
