"""Random views of images and masks, and changes of colour."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.data.dataset import IGNORE
from lab.tasks.segmentation.augment import change_colours, change_first_colours, colour_changes, flipped, random_view
from lab.tasks.segmentation.config import AugmentConfig, ImageConfig
from lab.tasks.segmentation.geometry import mean_colour

PLAIN = AugmentConfig(flips="none")


def marked(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image whose red channel, in flat parts of 8 pixels, is 20 times its mask."""
    rows, columns = np.mgrid[:height, :width] // 8
    mask = ((rows * 3 + columns) % 10).astype(np.uint8)
    return np.repeat((mask * 20)[..., None], 3, axis=2), mask


def view(image: np.ndarray, mask: np.ndarray, seed: int = 0, augment: AugmentConfig = PLAIN, **options: Any) -> Any:
    config = ImageConfig(**({"crop_size": 24, "base_size": None, "scale": (1.0, 1.0)} | options))
    return random_view(image, mask, config, augment, np.random.default_rng(seed))


@settings(max_examples=40, deadline=None)
@given(st.integers(5, 90), st.integers(5, 90), st.integers(17, 50), st.sampled_from([None, 30, 80]), st.integers(0, 99))
def test_views_are_squares_of_a_multiple_of_eight(
    height: int, width: int, crop_size: int, base_size: int | None, seed: int
) -> None:
    image, mask = marked(height, width)
    options = {"crop_size": crop_size, "base_size": base_size, "scale": (0.5, 2.0)}
    picture, target = view(image, mask, seed, AugmentConfig(flips="all"), **options)
    side = -(-crop_size // 8) * 8
    assert picture.shape == (side, side, 3)
    assert target.shape == (side, side)
    assert set(np.unique(target)) <= set(np.unique(mask)) | {IGNORE}
    # What is no image is the mean colour, and does not count.
    assert (picture[target == IGNORE] == mean_colour(ImageConfig().mean)).all()


def test_image_and_mask_stay_together() -> None:
    image, mask = marked(60, 90)
    for seed in range(8):
        picture, target = view(image, mask, seed, AugmentConfig(flips="all"))
        np.testing.assert_array_equal(picture[..., 0], target * 20)
        picture, target = view(image, mask, seed, AugmentConfig(flips="all"), scale=(0.7, 1.6))
        assert (np.abs(picture[..., 0].astype(int) - target * 20) <= 10).mean() > 0.6


def test_the_longer_side_is_base_size_times_the_factor() -> None:
    image, mask = np.zeros((50, 100, 3), np.uint8), np.zeros((50, 100), np.uint8)
    _, target = view(image, mask, base_size=40, crop_size=64, scale=(1.25, 1.25))
    counted = target != IGNORE
    assert (counted.any(axis=1).sum(), counted.any(axis=0).sum()) == (25, 50)


def test_a_view_depends_on_its_generator_alone() -> None:
    image, mask = marked(60, 90)
    first, again, other = (view(image, mask, seed, scale=(0.5, 2.0)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[1] != other[1]).any()


def test_crops_of_one_class_are_drawn_again() -> None:
    mask = np.zeros((24, 600), np.uint8)
    mask[:, 300:330] = 1
    image = np.zeros((24, 600, 3), np.uint8)
    augment = AugmentConfig(flips="none", max_class_share=0.75)

    def mixed(options: AugmentConfig) -> int:
        return sum(len(np.unique(view(image, mask, seed, options)[1])) > 1 for seed in range(60))

    assert mixed(augment) > 2 * mixed(PLAIN) > 0


@pytest.mark.parametrize(("flips", "count"), [("none", 1), ("horizontal", 2), ("all", 8)])
def test_symmetries(flips: str, count: int) -> None:
    image = np.arange(3 * 25, dtype=np.uint8).reshape(5, 5, 3)
    rng, seen = np.random.default_rng(0), set()
    for _ in range(100):
        picture, target = flipped(image, image[..., 0], flips, rng)
        np.testing.assert_array_equal(picture[..., 0], target)
        seen.add(target.tobytes())
    assert len(seen) == count


def colours(num: int = 64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).uniform(60, 190, (num, 3, 2, 2))).float()


def test_no_change_of_colours_is_none() -> None:
    x = colours()
    changed = change_colours(x, *colour_changes(len(x), PLAIN, np.random.default_rng(0)))
    torch.testing.assert_close(changed, x, atol=1e-3, rtol=0)
    assert not PLAIN.changes_colours
    assert AugmentConfig(hue_degrees=1).changes_colours


def test_brightness_and_contrast_by_hand() -> None:
    x = colours()
    matrices, offsets = colour_changes(len(x), AugmentConfig(brightness=0.1, contrast=0.3), np.random.default_rng(1))
    changed = change_colours(x, matrices, offsets)
    factor = torch.from_numpy(matrices[:, 0, 0] + matrices[:, 0, 1] + matrices[:, 0, 2])[:, None, None, None]
    assert 0.7 <= factor.min() < 0.8 < 1.2 < factor.max() <= 1.3
    shift = changed - ((x - 127.5) * factor + 127.5)
    torch.testing.assert_close(shift, shift[:, :1, :1, :1].expand_as(shift), atol=1e-2, rtol=0)
    assert 20 < shift.abs().max() <= 25.6


def test_hue_turns_and_saturation_scales() -> None:
    x = colours()
    turned = change_colours(x, *colour_changes(len(x), AugmentConfig(hue_degrees=30), np.random.default_rng(1)))
    torch.testing.assert_close(turned.mean(dim=1), x.mean(dim=1), atol=1e-2, rtol=0)  # along the grey axis
    grey = torch.full((2, 3, 1, 1), 77.0)
    torch.testing.assert_close(
        change_colours(
            grey, *colour_changes(2, AugmentConfig(hue_degrees=90, saturation=0.9), np.random.default_rng(0))
        ),
        grey,
        atol=1e-2,
        rtol=0,
    )
    hues = [[colorsys.rgb_to_hsv(*(t[i, :, 0, 0] / 255).tolist())[0] for i in range(len(x))] for t in (x, turned)]
    difference = np.abs((np.array(hues[0]) - hues[1] + 0.5) % 1 - 0.5) * 360
    assert 10 < difference.max() < 45


def test_colours_stay_in_range() -> None:
    options = AugmentConfig(brightness=1.0, contrast=0.9, saturation=0.9, hue_degrees=180)
    changed = change_colours(colours(), *colour_changes(64, options, np.random.default_rng(0)))
    assert changed.min() >= 0
    assert changed.max() <= 255


def test_colours_change_in_the_first_three_channels_alone() -> None:
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 4, 3, 3), dtype=np.uint8))
    options = AugmentConfig(brightness=0.2, hue_degrees=20)
    changed = change_first_colours(x, options, np.random.default_rng(3))
    expected = change_colours(x[:, :3], *colour_changes(6, options, np.random.default_rng(3)))
    torch.testing.assert_close(changed[:, :3], expected)
    torch.testing.assert_close(changed[:, 3:], x[:, 3:].float())
    assert change_first_colours(x, PLAIN, np.random.default_rng(0)) is x


def test_bands_are_cut_and_flipped_together() -> None:
    image, mask = marked(60, 90)
    bands = np.concatenate((image, image[..., :2]), axis=-1)
    options = {"channels": 5, "mean": (0.5,) * 5, "std": (0.5,) * 5, "scale": (0.7, 1.6)}
    for seed in range(4):
        picture, _ = view(bands, mask, seed, AugmentConfig(flips="all"), **options)
        assert picture.shape == (24, 24, 5)
        for band in range(1, 5):
            np.testing.assert_array_equal(picture[..., band], picture[..., 0])
