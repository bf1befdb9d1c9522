"""Fashion scenes: reproducible bit for bit, boxes and masks of the same layout, bounds of what is promised."""

from __future__ import annotations

import hashlib
from typing import cast

import numpy as np
import pytest

from lab.core.errors import DataError
from lab.data.dataset import ArrayDataset, Boxes
from lab.data.scenes import GARMENT_SIZES, NUM_OBJECTS, SIZE, FashionScenes, silhouette


@pytest.fixture(scope="module")
def garments() -> ArrayDataset:
    """Thirty blobs of grey on black, 28 x 28; the class can be told from the index."""
    rng = np.random.default_rng(3)
    images = np.zeros((30, 28, 28, 1), np.uint8)
    for image in images:
        top, left = rng.integers(1, 10, 2)
        height, width = rng.integers(8, 18, 2)
        image[top : top + height, left : left + width] = rng.integers(60, 256, (height, width, 1))
    return ArrayDataset(images, np.arange(30) % 3, ("a", "b", "c"), "blobs")


def test_scenes_are_the_same_bytes_every_time(garments: ArrayDataset) -> None:
    digest = hashlib.sha256()
    for index in (0, 7, 499):
        sample = FashionScenes(garments, "test", "boxes")[index]
        digest.update(sample.image.tobytes() + cast(Boxes, sample.label).boxes_K4.tobytes())
    # Pinned: another layout or other pixels are another data set, and need another GENERATOR.
    assert digest.hexdigest() == "2cbe4fd1f21c69eaefc4bd85f2be96dc89c8a6e28bac19141d23e65b1cf871d1"


def test_boxes_enclose_what_the_mask_shows(garments: ArrayDataset) -> None:
    boxed, masked = (FashionScenes(garments, "train", kind) for kind in ("boxes", "mask"))
    numbers = set()
    for index in range(40):
        boxes = cast(Boxes, boxed.annotation(index))
        mask_HW = cast(np.ndarray, masked.annotation(index))
        np.testing.assert_array_equal(boxed[index].image, masked[index].image)
        numbers.add(len(boxes))
        assert (boxes.boxes_K4 >= 0).all()
        assert (boxes.boxes_K4 <= SIZE).all()
        assert (boxes.boxes_K4[:, 2:] - boxes.boxes_K4[:, :2]).max() <= GARMENT_SIZES[1]
        seen_HW = np.zeros((SIZE, SIZE), bool)
        for (xmin, ymin, xmax, ymax), value in zip(boxes.boxes_K4.astype(int), boxes.classes_K, strict=True):
            part = mask_HW[ymin:ymax, xmin:xmax] == value + 1
            assert part[0].any()
            assert part[-1].any()
            assert part[:, 0].any()
            assert part[:, -1].any()
            seen_HW[ymin:ymax, xmin:xmax] = True
        assert not mask_HW[~seen_HW].any()
    assert min(numbers) >= NUM_OBJECTS[0]
    assert max(numbers) <= NUM_OBJECTS[1]
    assert len(numbers) > 4


def test_splits_kinds_and_names_differ(garments: ArrayDataset) -> None:
    sets = [FashionScenes(garments, split, kind) for split in ("train", "test") for kind in ("boxes", "mask")]
    assert [len(made) for made in sets] == [2000, 2000, 500, 500]
    assert [made.labels for made in sets[:2]] == [("a", "b", "c"), ("background", "a", "b", "c")]
    assert len({made.digest for made in sets}) == 4
    assert not np.array_equal(sets[0][3].image, sets[2][3].image)
    with pytest.raises(IndexError):
        sets[2][500]
    with pytest.raises(DataError, match="no annotations of this kind"):
        FashionScenes(garments, "train", "class")


def test_silhouette_fills_holes_but_not_gaps() -> None:
    grey = np.zeros((7, 7), np.uint8)
    grey[1:6, 1:6] = 200
    grey[3, 3] = 0  # a hole
    grey[4:6, 3] = 0
    grey[5, 2:5] = 0  # a gap, open below
    expected = grey > 0
    expected[3, 3] = False
    np.testing.assert_array_equal(silhouette(grey), expected)
    grey[5, 1:6] = 200
    expected[3:6, 1:6] = True
    np.testing.assert_array_equal(silhouette(grey), expected)
