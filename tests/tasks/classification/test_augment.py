"""Augmentation: exact ranges, geometry by hand, HLS against colorsys, and independence of global state."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lab.tasks.classification import augment


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def images() -> Tensor:
    """Every pixel of the batch differs: 7 images of 3 x 5 x 11."""
    return torch.arange(7 * 3 * 5 * 11).reshape(7, 3, 5, 11) % 251


def test_hls_offsets_fill_exactly_their_ranges() -> None:
    offsets = augment.draw_hls_offsets(20_000, rng())
    limits = np.array([36, 50, 50])
    assert (np.abs(offsets) <= limits).all()
    assert (offsets.max(axis=0) > 0.999 * limits).all()
    assert (offsets.min(axis=0) < -0.999 * limits).all()
    np.testing.assert_allclose(offsets.mean(axis=0), 0, atol=1)


def test_affine_parameters_fill_exactly_their_ranges() -> None:
    parameters = augment.draw_affine(20_000, rng())
    limits = np.array([10, 0.1, 0.25])
    assert (np.abs(parameters) <= limits * (1 + 1e-6)).all()
    assert (np.abs(parameters).max(axis=0) > 0.999 * limits).all()


def test_crop_without_room_changes_nothing(images: Tensor) -> None:
    assert torch.equal(augment.random_crop(images, 5, 11, 0, rng()), images)


def test_every_crop_is_a_window_of_its_own_image(images: Tensor) -> None:
    cropped = augment.random_crop(images, 3, 4, 1, rng())
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    for number in range(len(images)):
        windows = [padded[number, :, top : top + 3, left : left + 4] for top in range(5) for left in range(10)]
        assert any(np.array_equal(window, cropped[number]) for window in windows)


def test_crop_reaches_every_place() -> None:
    x = torch.arange(9).reshape(1, 1, 3, 3).expand(2000, 1, 3, 3)
    corners = augment.random_crop(x, 1, 1, 0, rng()).ravel()
    counts = np.bincount(corners.numpy(), minlength=9)
    assert (counts > 160).all()  # 222 expected of each


def test_flip_mirrors_about_half(images: Tensor) -> None:
    many = images.repeat(100, 1, 1, 1)
    flipped = augment.random_flip(many, rng())
    is_same = (flipped == many).flatten(1).all(1)
    is_mirrored = (flipped == many.flip(3)).flatten(1).all(1)
    assert bool((is_same ^ is_mirrored).all())
    assert 0.45 < is_mirrored.float().mean() < 0.55


@settings(max_examples=60, deadline=None)
@given(
    rgb=st.tuples(*[st.integers(0, 255).map(lambda level: level / 255)] * 3),  # what pixels can be
    offset=st.tuples(st.floats(-36, 36), st.floats(-50, 50), st.floats(-50, 50)),
)
def test_hls_shift_agrees_with_colorsys(rgb: tuple[float, float, float], offset: tuple[float, float, float]) -> None:
    hue, lightness, saturation = colorsys.rgb_to_hls(*rgb)
    expected = colorsys.hls_to_rgb(
        (hue + offset[0] / 180) % 1,
        min(max(lightness + offset[1] / 255, 0), 1),
        min(max(saturation + offset[2] / 255, 0), 1),
    )
    x = torch.tensor(rgb, dtype=torch.float64).reshape(1, 3, 1, 1)
    found = augment.shift_hls(x, torch.tensor([offset], dtype=torch.float64)).flatten()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_hls_shift_by_nothing_is_the_identity() -> None:
    x = torch.from_numpy(rng().random((3, 3, 5, 7)).astype(np.float32))
    torch.testing.assert_close(augment.shift_hls(x, torch.zeros(3, 3)), x, atol=1e-5, rtol=0)


def test_grey_images_only_change_their_lightness() -> None:
    x = torch.full((1, 1, 2, 3), 0.5)
    shifted = augment.shift_hls(x, torch.tensor([[30.0, 25.5, 40.0]]))
    torch.testing.assert_close(shifted, torch.full((1, 1, 2, 3), 0.6))


def test_identity_affine_is_a_crop() -> None:
    x = torch.from_numpy(rng().random((2, 3, 9, 11)).astype(np.float32))
    matrices = augment.affine_matrices(np.zeros((2, 3)))
    found = augment.affine_crop(x, matrices, np.array([1, 2]), np.array([3, 0]), 5, 7)
    torch.testing.assert_close(found[0], x[0, :, 1:6, 3:10], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1], x[1, :, 2:7, 0:7], atol=1e-5, rtol=0)


def test_affine_matrices_by_hand() -> None:
    (rotation,) = augment.affine_matrices(np.array([[10.0, 0.0, 0.0]]))
    angle = np.deg2rad(10)
    np.testing.assert_allclose(rotation, [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]], atol=1e-7)
    (stretched,) = augment.affine_matrices(np.array([[0.0, 0.0, 0.25]]))
    assert stretched[1, 1] / stretched[0, 0] == pytest.approx(1.25)
    (sheared,) = augment.affine_matrices(np.array([[0.0, 0.1, 0.0]]))
    np.testing.assert_allclose(sheared, [[1, 0.1], [0, 1]], atol=1e-7)


def test_a_quarter_turn_moves_pixels_as_expected() -> None:
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 2, 4] = 1  # right of the middle
    found = augment.affine_crop(x, np.array([[[0.0, 1.0], [-1.0, 0.0]]]), np.array([0]), np.array([0]), 5, 5)
    assert found[0, 0].argmax().item() == 2  # row 0, column 2: above the middle
    assert found.max().item() == pytest.approx(1, abs=1e-4)


def test_mixup_blends_images_and_targets_alike() -> None:
    x = torch.arange(5.0).reshape(5, 1, 1, 1).expand(5, 1, 2, 2)
    mixed, soft = augment.mixup(x, torch.eye(5), 0.4, rng(3))
    torch.testing.assert_close(soft.sum(1), torch.ones(5))
    torch.testing.assert_close(mixed[:, 0, 0, 0], soft @ torch.arange(5.0))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000))
def test_cutmix_targets_are_the_areas(seed: int) -> None:
    x = torch.arange(5.0).reshape(5, 1, 1, 1).expand(5, 1, 7, 11)
    mixed, soft = augment.cutmix(x, torch.eye(5), 1.0, rng(seed))
    areas = torch.stack([(mixed == label).flatten(1).float().mean(1) for label in range(5)], 1)
    torch.testing.assert_close(soft, areas)


@settings(max_examples=60, deadline=None)
@given(height=st.integers(3, 60), width=st.integers(3, 60), seed=st.integers(0, 99))
def test_random_box_lies_inside_with_the_asked_area(height: int, width: int, seed: int) -> None:
    top, left, box_height, box_width = augment.random_box(height, width, (0.25, 1.0), rng(seed))
    assert top >= 0
    assert left >= 0
    assert 0 < box_height <= height - top
    assert 0 < box_width <= width - left


def test_resized_crop_of_a_gradient_stays_inside_it() -> None:
    ramp = torch.linspace(0, 1, 31).expand(4, 1, 29, 31).contiguous()
    found = augment.random_resized_crop(ramp, 13, 17, (0.2, 0.9), rng())
    assert found.shape == (4, 1, 13, 17)
    assert found.min() >= 0
    assert found.max() <= 1
    assert bool((found.diff(dim=3) > 0).all())


@pytest.mark.parametrize(
    "change",
    [
        lambda x, r: augment.random_crop(x, 3, 5, 2, r),
        augment.random_flip,
        lambda x, r: augment.random_affine_crop(x.float(), 3, 5, 0, r),
        lambda x, r: augment.mixup(x.float(), torch.eye(7), 0.3, r)[0],
        lambda x, r: augment.cutmix(x.float(), torch.eye(7), 0.3, r)[0],
    ],
    ids=["crop", "flip", "affine", "mixup", "cutmix"],
)
def test_global_generators_change_nothing(images: Tensor, change: Callable[..., Tensor]) -> None:
    torch.manual_seed(1)
    first = change(images, rng(9))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(change(images, rng(9)), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(change(images, rng(10)), first)
