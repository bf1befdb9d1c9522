"""Run lengths and polygons against pycocotools' own algorithm (faster-coco-eval carries it), and their inverses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from lab.data import rle

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=20))


@given(MASKS)
def test_runs_and_text_are_inverses(mask_HW: np.ndarray) -> None:
    runs_R = rle.to_runs(mask_HW)
    np.testing.assert_array_equal(rle.from_runs(runs_R, *mask_HW.shape), mask_HW)
    np.testing.assert_array_equal(rle.decompress(rle.compress(runs_R)), runs_R)


@given(st.lists(st.integers(0, 10**6), min_size=1))
def test_text_holds_any_lengths(runs: list[int]) -> None:
    assert rle.decompress(rle.compress(np.asarray(runs))).tolist() == runs


def test_runs_go_down_the_columns_from_the_background() -> None:
    mask_HW = np.array([[1, 0, 0], [1, 1, 0]], bool)
    assert rle.to_runs(mask_HW).tolist() == [0, 2, 1, 1, 2]
    assert rle.to_runs(np.zeros((2, 2), bool)).tolist() == [4]


@given(MASKS)
def test_text_equals_the_reference(mask_HW: np.ndarray) -> None:
    reference = pytest.importorskip("faster_coco_eval.core.mask")
    encoded = reference.encode(np.asfortranarray(mask_HW.astype(np.uint8)))
    assert rle.compress(rle.to_runs(mask_HW)) == encoded["counts"].decode()


@given(st.lists(st.tuples(st.floats(-5, 40), st.floats(-5, 30)), min_size=3, max_size=8))
def test_polygons_equal_the_reference(corners: list[tuple[float, float]]) -> None:
    reference = pytest.importorskip("faster_coco_eval.core.mask")
    flat = [value for corner in corners for value in corner]
    expected = reference.decode(reference.frPyObjects([flat], 25, 35))[..., 0].astype(bool)
    np.testing.assert_array_equal(rle.from_polygon(np.asarray(corners), 25, 35), expected)


def test_a_rectangle_has_its_pixels() -> None:
    inside_HW = rle.from_polygon(np.array([[2, 1], [6, 1], [6, 4], [2, 4]]), 6, 9)
    expected_HW = np.zeros((6, 9), bool)
    expected_HW[1:4, 2:6] = True
    np.testing.assert_array_equal(inside_HW, expected_HW)


@pytest.mark.parametrize("text", ["~~", "\n", "P"])
def test_broken_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="run-length text"):
        rle.decompress(text)


def test_runs_must_fill_the_mask() -> None:
    with pytest.raises(ValueError, match="add up to 7"):
        rle.from_runs(np.array([3, 4]), 2, 4)
