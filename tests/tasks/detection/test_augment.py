"""Augmentation: boxes stay inside and on their objects, pixels and colours equal torchvision's for the same draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from lab.core.seeding import stream
from lab.data.dataset import Boxes
from lab.tasks.detection import augment
from lab.tasks.detection.augment import View, boxes_in_view, draw_view, render
from lab.tasks.detection.config import AugmentConfig
from tests.tasks.detection.tiny import COLOURS, scene


@given(st.integers(0, 2**32 - 1), st.integers(0, 6), st.booleans(), st.floats(1, 5), st.booleans())
def test_boxes_stay_inside_and_have_an_area(seed: int, count: int, crop: bool, zoom: float, flip: bool) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(size) for size in rng.integers(5, 400, 2))
    corners = np.sort(rng.uniform(0, [[width, height]] * 2, (count, 2, 2)), axis=1).reshape(count, 4)
    boxes = Boxes.of(corners, rng.integers(0, 3, count))
    view = draw_view(boxes.boxes_K4, height, width, AugmentConfig(zoom_out=zoom, iou_crop=crop, flip=flip), rng)
    seen = boxes_in_view(boxes, view)
    assert view.width > 0
    assert view.height > 0
    assert len(seen) <= count
    assert bool(((seen.boxes_K4 >= 0) & (seen.boxes_K4 <= 1)).all())
    sides = (seen.boxes_K4[:, 2:] - seen.boxes_K4[:, :2]) * [view.width, view.height]
    assert bool((sides >= augment.LEAST_SIDE - 1e-3).all())


def colour_box(image_HWC: np.ndarray, colour: tuple[int, ...]) -> tuple[float, ...]:
    """Corners, as shares, of the pixels of about this colour."""
    near = np.abs(image_HWC.astype(int) - colour).max(axis=2) < 60
    rows, columns = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
    size = len(image_HWC)
    return columns[0] / size, rows[0] / size, (columns[-1] + 1) / size, (rows[-1] + 1) / size


@pytest.mark.parametrize("seed", range(12))
def test_boxes_stay_on_their_objects(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image, boxes = scene(rng, 1)
    view = draw_view(boxes.boxes_K4, *image.shape[:2], AugmentConfig(), rng)
    seen, shown = boxes_in_view(boxes, view), render(image, view, 200, (120, 110, 100))
    assert shown.shape == (200, 200, 3)
    for box, index in zip(seen.boxes_K4, seen.classes_K, strict=True):
        np.testing.assert_allclose(colour_box(shown, COLOURS[int(index)]), box, atol=1.5 / 200 + 0.004)


@pytest.mark.parametrize(
    "view", [View(0, 0, 96, 80), View(-50, -20, 200, 160), View(30, 10, 40, 61, True), View(-9, 33, 70, 90)]
)
def test_one_resampling_equals_pad_crop_and_resize(view: View) -> None:
    """torchvision pads the whole canvas, cuts from it and lets the model resize."""
    image, _ = scene(np.random.default_rng(5), 4)
    size, fill = 100, (120, 110, 100)
    canvas = F.pad(torch.from_numpy(image).permute(2, 0, 1), [200] * 4, fill=list(fill))
    part = F.crop(canvas, view.top + 200, view.left + 200, view.height, view.width)
    expected = F.resize(part, [size, size], antialias=True)
    expected = F.horizontal_flip(expected) if view.flip else expected
    gap = np.abs(render(image, view, size, fill).astype(int) - expected.permute(1, 2, 0).numpy()).mean(axis=2)
    assert np.quantile(gap, 0.9) <= 1.5  # all but the seam between image and canvas, which theirs blurs


def test_draws_have_torchvisions_distribution() -> None:
    """Mean share of the image that is seen, over 400 draws of either."""
    boxes = Boxes.of([[10, 10, 60, 60], [50, 30, 90, 75]], [0, 1])
    options = AugmentConfig()
    ours = [draw_view(boxes.boxes_K4, 80, 96, options, stream(0, index)) for index in range(400)]
    torch.manual_seed(0)
    zoom, crop = v2.RandomZoomOut(), v2.RandomIoUCrop()
    theirs = []
    for _ in range(400):
        from torchvision import tv_tensors

        found = tv_tensors.BoundingBoxes(torch.from_numpy(boxes.boxes_K4), format="XYXY", canvas_size=(80, 96))  # type: ignore[call-arg]
        pixels, found = zoom(tv_tensors.Image(torch.zeros(1, 80, 96)), found)
        params = crop.make_params([pixels, found])
        theirs.append((params.get("width", pixels.shape[-1]), params.get("height", pixels.shape[-2])))
    widths, heights = np.array(theirs, float).T
    assert np.mean([view.width for view in ours]) == pytest.approx(widths.mean(), rel=0.1)
    assert np.mean([view.height for view in ours]) == pytest.approx(heights.mean(), rel=0.1)
    assert np.std([view.width for view in ours]) == pytest.approx(widths.std(), rel=0.15)
    assert np.mean([view.flip for view in ours]) == pytest.approx(0.5, abs=0.1)


def test_each_change_of_colour_equals_torchvisions() -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.random((6, 3, 9, 7)).astype(np.float32))
    x[0, :, :3] = 0.4  # grey has no hue
    for ours, theirs, factors in (
        (augment.scale_brightness, F.adjust_brightness, rng.uniform(0.875, 1.125, 6)),
        (augment.scale_contrast, F.adjust_contrast, rng.uniform(0.5, 1.5, 6)),
        (augment.scale_saturation, F.adjust_saturation, rng.uniform(0.5, 1.5, 6)),
        (augment.shift_hue, F.adjust_hue, rng.uniform(-0.05, 0.05, 6)),
    ):
        expected = torch.stack([theirs(image, float(f)) for image, f in zip(x, factors, strict=True)])
        found = ours(x.clone(), torch.from_numpy(factors.astype(np.float32)).view(-1, 1, 1, 1))
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


def test_colours_depend_on_the_seed_alone_and_change_half_of_the_images() -> None:
    x = torch.from_numpy(np.random.default_rng(1).random((64, 3, 8, 8)).astype(np.float32))
    first = augment.distort_colours(x.clone(), np.random.default_rng(7), permute_channels=True)
    again = augment.distort_colours(x.clone(), np.random.default_rng(7), permute_channels=True)
    assert torch.equal(first, again)
    assert bool(((first >= 0) & (first <= 1)).all())
    untouched = (first == x).flatten(1).all(dim=1).float().mean()
    assert 0.0 < float(untouched) < 0.15  # 1 / 32, and 1 / 6 of the permutations change nothing


def test_no_augmentation_shows_the_whole_image() -> None:
    _, boxes = scene(np.random.default_rng(2), 3)
    options = AugmentConfig(zoom_out=1, iou_crop=False, flip=False)
    view = draw_view(boxes.boxes_K4, 80, 96, options, np.random.default_rng(0))
    assert view == View(0, 0, 96, 80)
    np.testing.assert_allclose(boxes_in_view(boxes, view).boxes_K4 * [96, 80, 96, 80], boxes.boxes_K4, atol=1e-4)
