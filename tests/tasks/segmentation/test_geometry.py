"""Windows and back: every pixel is covered, and what is put together is what was taken apart."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lab.core.errors import ArtifactError, DataError
from lab.tasks.segmentation.geometry import (
    Layout,
    SegmentationPreprocessing,
    layouts,
    mean_colour,
    merge,
    resize_scores,
    round_up,
    scaled_size,
    starts,
    windows_of,
)

sizes = st.tuples(st.integers(1, 90), st.integers(1, 90))
SLIDE = SegmentationPreprocessing((3, 32, 32))


@given(st.integers(1, 2000), st.integers(1, 300), st.floats(0, 0.99))
def test_windows_cover_every_pixel_and_share_the_overlap(length: int, side: int, overlap: float) -> None:
    first = starts(length, side, overlap)
    covered = np.zeros(length, int)
    for start in first:
        assert 0 <= start <= max(0, length - side)
        covered[start : start + side] += 1
    assert covered.min() >= 1
    assert all(after - before <= max(1, int(side * (1 - overlap))) + 1 for before, after in pairwise(first))
    assert first[-1] + side >= length


@pytest.mark.parametrize(
    ("length", "expected"), [(10, (0,)), (32, (0,)), (33, (0, 1)), (64, (0, 16, 32)), (75, (0, 14, 29, 43))]
)
def test_windows_by_hand(length: int, expected: tuple[int, ...]) -> None:
    assert starts(length, 32, 0.5) == expected


@settings(max_examples=40, deadline=None)
@given(sizes, st.floats(0, 0.8), st.integers(0, 9))
def test_merging_the_windows_of_an_image_gives_the_image(size: tuple[int, int], overlap: float, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    preprocessing = SegmentationPreprocessing((3, 32, 32), overlap=overlap)
    rows = windows_of(image, preprocessing).transpose(0, 3, 1, 2).astype(np.float32)
    merged = merge(rows, Layout.of(size, preprocessing))
    np.testing.assert_allclose(merged, image.transpose(2, 0, 1), atol=1e-3)


@settings(max_examples=25, deadline=None)
@given(sizes, st.sampled_from(["slide", "resize", "whole"]), st.sampled_from([None, 24, 70]))
def test_numpy_and_torch_merge_alike_to_the_last_bit(size: tuple[int, int], mode: str, base_size: int | None) -> None:
    preprocessing = SegmentationPreprocessing((3, 32, 32), mode=mode, base_size=base_size)
    layout = Layout.of(size, preprocessing)
    rows = np.random.default_rng(1).standard_normal((len(layout), 4, *layout.window)).astype(np.float32)
    expected = merge(rows, layout)
    assert expected.shape == (4, *size)
    np.testing.assert_array_equal(merge(torch.from_numpy(rows), layout, torch.from_numpy).numpy(), expected)


@settings(max_examples=30, deadline=None)
@given(sizes, sizes)
def test_resizing_scores_equals_torchs_interpolate(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    x = np.random.default_rng(0).standard_normal((3, *size)).astype(np.float32)
    expected = F.interpolate(torch.from_numpy(x)[None], size=wanted, mode="bilinear", align_corners=False)[0]
    np.testing.assert_allclose(resize_scores(x, wanted), expected.numpy(), atol=1e-4)  # torch places pixels in float32


def test_modes_by_hand() -> None:
    def layout(mode: str, base_size: int | None) -> Layout:
        return Layout.of((50, 100), SegmentationPreprocessing((3, 64, 64), mode=mode, base_size=base_size))

    assert layout("resize", 40) == Layout((50, 100), (64, 64), (64, 64), ((0, 0),))
    assert layout("whole", None) == Layout((50, 100), (50, 100), (56, 104), ((0, 0),))
    assert layout("whole", 40).scaled == (20, 40)
    assert layout("slide", None).corners == ((0, 0), (0, 36))
    assert layout("slide", 200).scaled == (100, 200)
    assert len(layout("slide", 200)) == 2 * 5
    assert layout("slide", 40).corners == ((0, 0),)


@given(sizes, st.integers(17, 600))
def test_scaling_keeps_the_aspect(size: tuple[int, int], longer: int) -> None:
    height, width = scaled_size(size, longer)
    assert max(height, width) == longer
    assert min(height, width) == max(1, round(min(size) * longer / max(size)))
    assert min(scaled_size(size, longer, "shorter")) == longer


def test_sides_are_rounded_up() -> None:
    assert [round_up(value, 8) for value in (17, 24, 240, 513, 520)] == [24, 24, 240, 520, 520]


def test_small_images_are_padded_with_the_mean_colour() -> None:
    image = np.full((5, 7, 1), 9, np.uint8)
    (row,) = windows_of(image, SLIDE)
    assert row.shape == (32, 32, 3)
    assert (row[:5, :7] == 9).all()
    assert (row[5:] == mean_colour(SLIDE.mean)).all()
    assert (row[:, 7:] == [124, 116, 104]).all()


def test_rows_belong_to_their_images() -> None:
    found = [(layout.size, rows) for layout, rows in layouts([(32, 70), (9, 9)], SLIDE)]
    assert found == [((32, 70), slice(0, 3)), ((9, 9), slice(3, 4))]


def test_preprocessing_survives_the_manifest() -> None:
    assert SegmentationPreprocessing.from_dict(SLIDE.to_dict()) == SLIDE
    with pytest.raises(ArtifactError, match="not understood"):
        SegmentationPreprocessing.from_dict({"shape": [3, 8, 8], "colour": 1})
    with pytest.raises(ArtifactError, match="unusable"):
        SegmentationPreprocessing((3, 8, 8), mode="guess")
    with pytest.raises(ArtifactError, match="unusable"):
        SegmentationPreprocessing((3, 8, 16))
    with pytest.raises(ArtifactError, match="mean and std"):
        SegmentationPreprocessing((3, 8, 8), std=(0.0, 1.0, 1.0))


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(DataError, match="not an image"):
        windows_of(np.zeros((4, 4, 3)), SLIDE)
