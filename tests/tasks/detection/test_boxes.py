"""Default boxes, overlap, matching and encoding: against torchvision's, and as algebra."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder, SSDMatcher
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from lab.core.errors import ConfigError
from lab.tasks.detection import numpy_boxes
from lab.tasks.detection.boxes import (
    decode,
    default_aspect_ratios,
    default_boxes,
    default_scales,
    encode,
    iou,
    match,
    to_corners,
)

SIDES_300 = (38, 19, 10, 5, 3, 1)


def random_boxes(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    corners = rng.random((*shape, 2, 2)).astype(np.float32)
    return torch.from_numpy(np.sort(corners, axis=-2).reshape(*shape, 4))


def defaults_300() -> torch.Tensor:
    return default_boxes(300, SIDES_300, default_scales(300, 6), default_aspect_ratios(6))


def theirs(
    size: int, sides: tuple[int, ...], scales: list[float], ratios: list[list[int]], steps: list[int] | None
) -> torch.Tensor:
    generator = DefaultBoxGenerator(ratios, scales=scales, steps=steps)
    images = ImageList(torch.zeros(1, 3, size, size), [(size, size)])
    corners: torch.Tensor = generator(images, [torch.zeros(1, 1, side, side) for side in sides])[0]
    return corners


def test_ssd300_default_boxes_equal_torchvisions() -> None:
    ratios = [[2], [2, 3], [2, 3], [2, 3], [2], [2]]
    scales = [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05]
    expected = theirs(300, SIDES_300, scales, ratios, [8, 16, 32, 64, 100, 300])
    assert default_scales(300, 6) == tuple(scales)
    assert len(defaults_300()) == 8732
    torch.testing.assert_close(to_corners(defaults_300()) * 300, expected, atol=1e-4, rtol=0)


def test_ssd512_has_the_papers_scales_and_24564_boxes() -> None:
    sides, ratios = (64, 32, 16, 8, 4, 2, 1), [[2], [2, 3], [2, 3], [2, 3], [2, 3], [2], [2]]
    scales = default_scales(512, 7)
    assert scales == (0.04, 0.1, 0.26, 0.42, 0.58, 0.74, 0.9, 1.06)
    ours = default_boxes(512, sides, scales, default_aspect_ratios(7))
    assert len(ours) == 24564
    torch.testing.assert_close(
        to_corners(ours) * 512, theirs(512, sides, list(scales), ratios, None), atol=1e-4, rtol=0
    )


def test_scales_and_ratios_must_fit_the_maps() -> None:
    with pytest.raises(ConfigError, match="do not fit 3 feature maps"):
        default_boxes(64, (8, 4, 2), (0.1, 0.2, 0.3), ((2.0,),) * 3)


@given(st.integers(0, 2**32 - 1), st.integers(0, 6), st.integers(1, 6))
def test_iou_is_symmetric_within_0_and_1_and_equals_torchvisions(seed: int, m: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = random_boxes(rng, m), random_boxes(rng, n)
    found = iou(a, b)
    assert torch.equal(found, iou(b, a).mT)
    assert bool(((found >= 0) & (found <= 1)).all())
    torch.testing.assert_close(found, box_iou(a, b), atol=1e-6, rtol=0)
    np.testing.assert_allclose(numpy_boxes.iou(a.numpy(), b.numpy()), found.numpy(), atol=1e-6)
    torch.testing.assert_close(iou(b, b).diagonal(), torch.ones(n), atol=1e-6, rtol=0)


@given(st.integers(0, 2**32 - 1))
def test_decode_is_the_inverse_of_encode(seed: int) -> None:
    rng = np.random.default_rng(seed)
    defaults = defaults_300()[torch.from_numpy(rng.integers(0, 8732, 20))]
    centre = rng.uniform(0.2, 0.8, (3, 20, 2)).astype(np.float32)
    half = rng.uniform(0.01, 0.2, (3, 20, 2)).astype(np.float32)
    boxes = torch.from_numpy(np.concatenate((centre - half, centre + half), axis=-1))
    torch.testing.assert_close(decode(encode(boxes, defaults), defaults), boxes, atol=2e-6, rtol=0)


def test_codes_equal_torchvisions() -> None:
    rng = np.random.default_rng(0)
    defaults, boxes = defaults_300()[1000:1200], random_boxes(rng, 200)
    coder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
    expected = coder.encode_single(boxes, to_corners(defaults))
    torch.testing.assert_close(encode(boxes, defaults), expected, atol=1e-4, rtol=1e-4)
    codes = torch.from_numpy(rng.normal(0, 8, (200, 4)).astype(np.float32))
    torch.testing.assert_close(
        decode(codes, defaults), coder.decode_single(codes, to_corners(defaults)), atol=1e-4, rtol=1e-5
    )


@given(st.integers(0, 2**32 - 1), st.integers(1, 7))
def test_matching_equals_torchvisions(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    corners = to_corners(defaults_300())[torch.from_numpy(rng.choice(8732, 300, replace=False))]
    # The maxima must be unique: which of several it finds first is nobody's promise.
    boxes = random_boxes(rng, 2, count) * 0.9 + torch.from_numpy(rng.random((2, count, 4)).astype(np.float32)) * 1e-3
    present = torch.ones(2, count, dtype=torch.bool)
    found, left_out = match(boxes, present, ~present, corners, 0.5)
    assert not left_out.any()
    for row in range(2):
        overlaps = box_iou(boxes[row], corners)
        if bool((overlaps.max(dim=1).values > 0).all()):
            assert torch.equal(found[row], SSDMatcher(0.5)(overlaps).clamp(min=-1))


def test_every_object_is_matched_and_padding_is_not() -> None:
    corners = to_corners(defaults_300())
    boxes = torch.tensor([[[0.1, 0.1, 0.12, 0.11], [0.3, 0.3, 0.9, 0.8], [0.0, 0.0, 0.0, 0.0]]])
    present = torch.tensor([[True, True, False]])
    found, _ = match(boxes, present, torch.zeros_like(present), corners, 0.5)
    assert set(found.unique().tolist()) == {-1, 0, 1}
    assert int((found == 0).sum()) == 1  # too small for any overlap of 0.5


def test_default_boxes_on_ignored_objects_are_left_out() -> None:
    corners = to_corners(defaults_300())
    boxes = torch.tensor([[[0.3, 0.3, 0.6, 0.6], [0.6, 0.6, 0.9, 0.9]]])
    present, ignore = torch.tensor([[True, False]]), torch.tensor([[False, True]])
    found, left_out = match(boxes, present, ignore, corners, 0.5)
    assert bool((found[left_out.logical_not()] >= -1).all())
    assert int(left_out.sum()) > 5
    assert not bool((left_out & (found >= 0)).any())
    assert bool((box_iou(corners[left_out[0]], boxes[0, 1:]) >= 0.5).all())


def test_no_object_at_all() -> None:
    found, left_out = match(
        torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.bool), torch.zeros(2, 0, dtype=torch.bool),
        to_corners(defaults_300()), 0.5,
    )  # fmt: skip
    assert bool((found == -1).all())
    assert not left_out.any()
