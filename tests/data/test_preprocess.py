"""Decoding, resizing, cropping and normalising, against Pillow, torchvision's rules and arithmetic by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lab.core.errors import ArtifactError, DataError
from lab.data.preprocess import (
    ImagePreprocessing,
    apply,
    center_crop,
    decode_image,
    first_three,
    fit_all,
    load_image,
    resize_image,
    resize_shorter,
    to_channels,
)


def small(**changes: object) -> ImagePreprocessing:
    options: dict[str, object] = {"shape": (3, 5, 7), "mean": (0.5, 0.25, 0.0), "std": (0.5, 0.25, 1.0)}
    return ImagePreprocessing(**(options | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGB", (1, 2, 3), [1, 2, 3]),
        ("RGBA", (1, 2, 3, 0), [1, 2, 3]),
        ("L", 9, [9]),
        ("LA", (9, 5), [9]),
        ("1", 1, [255]),
        ("P", 0, [0, 0, 0]),
        ("I;16", 0x1234, [0x12]),
    ],
)
def test_every_mode_becomes_grey_or_rgb(
    tmp_path: Path, save_image: Callable[..., Path], mode: str, colour: object, expected: list[int]
) -> None:
    image = load_image(save_image(tmp_path / "x.png", colour, mode=mode))
    assert image.dtype == np.uint8
    assert image.shape == (5, 7, len(expected))
    assert image[4, 6].tolist() == expected


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[[10] * 3, [20] * 3, [30] * 3]], np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate 90 degrees clockwise to view
    image.save(tmp_path / "x.png", exif=exif)
    assert load_image(tmp_path / "x.png")[:, 0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize("keep", [0, 20, 45])
def test_damaged_file_is_named(tmp_path: Path, save_image: Callable[..., Path], keep: int) -> None:
    path = save_image(tmp_path / "broken.png")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="cannot be decoded") as caught:
        load_image(path)
    assert str(path) in caught.value.what


def test_truncated_jpeg_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (61, 67, 3), dtype=np.uint8)
    path = tmp_path / "x.jpg"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(DataError, match="cannot be decoded"):
        load_image(path)


def test_missing_file_and_text_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no image at"):
        load_image(tmp_path / "none.png")
    with pytest.raises(DataError, match="cannot be decoded"):
        decode_image(b"hello", "hello.png")


def test_normalisation_by_hand() -> None:
    image = np.full((5, 7, 3), 255, np.uint8)
    x = apply([image], small())
    assert (x.shape, x.dtype) == ((1, 3, 5, 7), np.float32)
    np.testing.assert_allclose(x[0, :, 0, 0], [(1 - 0.5) / 0.5, (1 - 0.25) / 0.25, 1.0], rtol=1e-6)


def test_batch_and_list_agree(random_images: np.ndarray) -> None:
    options = small(shape=(3, 13, 17))
    np.testing.assert_array_equal(apply(random_images, options), apply(list(random_images), options))


def test_grey_is_pillows_luma(random_images: np.ndarray) -> None:
    expected = np.asarray(Image.fromarray(random_images[0]).convert("L"))
    np.testing.assert_array_equal(to_channels(random_images[0], 1)[..., 0], expected)
    np.testing.assert_array_equal(to_channels(random_images, 1)[0, ..., 0], expected)


def test_grey_to_rgb_repeats() -> None:
    assert to_channels(np.full((1, 1, 1), 7, np.uint8), 3).tolist() == [[[7, 7, 7]]]
    with pytest.raises(DataError, match="number of channels"):
        to_channels(np.zeros((2, 2, 4), np.uint8), 3)


@pytest.mark.parametrize(("size", "expected"), [((13, 17), (11, 14)), ((17, 13), (14, 11)), ((5, 5), (11, 11))])
def test_shorter_side_keeps_the_aspect(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resize_shorter(np.zeros((*size, 3), np.uint8), 11).shape[:2] == expected


def test_resize_is_pillows_antialiased_bilinear(random_images: np.ndarray) -> None:
    expected = np.asarray(Image.fromarray(random_images[0]).resize((5, 4), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(resize_image(random_images[0], 4, 5), expected)


def test_center_crop_takes_the_middle() -> None:
    image = np.arange(7 * 5, dtype=np.uint8).reshape(7, 5, 1)
    np.testing.assert_array_equal(center_crop(image, 3, 3), image[2:5, 1:4])


def test_image_smaller_than_the_crop_is_refused() -> None:
    with pytest.raises(DataError, match="smaller than the crop") as caught:
        apply([np.zeros((4, 9, 3), np.uint8)], small())
    assert (caught.value.got, caught.value.expected) == ("4 x 9 (height x width)", "at least 5 x 7")


def test_crop_none_resizes_without_keeping_the_aspect(random_images: np.ndarray) -> None:
    fitted = fit_all([random_images[0], np.zeros((2, 3, 3), np.uint8)], small(crop="none"))
    assert fitted.shape == (2, 5, 7, 3)
    np.testing.assert_array_equal(fitted[0], resize_image(random_images[0], 5, 7))


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    channels=st.sampled_from([1, 3]),
    crop=st.sampled_from(["center", "none"]),
)
def test_any_image_becomes_the_shape(height: int, width: int, channels: int, crop: str) -> None:
    image = np.zeros((height, width, channels), np.uint8)
    assert apply([image], small(resize=7, crop=crop)).shape == (1, 3, 5, 7)


def test_no_images_give_an_empty_batch() -> None:
    assert apply([], small()).shape == (0, 3, 5, 7)


def test_not_an_image() -> None:
    with pytest.raises(DataError, match="not an image"):
        apply([np.zeros((5, 7, 3), np.float32)], small())


def test_dictionary_round_trip() -> None:
    options = small(resize=9, crop="none", interpolation="bicubic")
    assert ImagePreprocessing.from_dict(options.to_dict()) == options
    with pytest.raises(ArtifactError, match="not understood"):
        ImagePreprocessing.from_dict(options.to_dict() | {"colour": 1})


@pytest.mark.parametrize("change", [{"shape": (2, 5, 7)}, {"std": (0.0, 1, 1)}, {"mean": (0.0,)}, {"crop": "left"}])
def test_unusable_options(change: dict[str, object]) -> None:
    with pytest.raises(ArtifactError):
        small(**change)


@pytest.mark.parametrize("channels", [2, 4, 6])
def test_bands_are_resized_one_by_one(channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 41, channels), dtype=np.uint8)
    resized = resize_image(image, 17, 23)
    part = resize_image(image, 8, 9, "bicubic", (3.5, 2.0, 20.0, 21.25))
    assert (resized.shape, part.shape) == ((17, 23, channels), (8, 9, channels))
    for band in range(channels):
        alone = Image.fromarray(image[..., band])
        np.testing.assert_array_equal(resized[..., band], np.asarray(alone.resize((23, 17), Image.Resampling.BILINEAR)))
        expected = alone.resize((9, 8), Image.Resampling.BICUBIC, box=(3.5, 2.0, 20.0, 21.25))
        np.testing.assert_array_equal(part[..., band], np.asarray(expected))


def test_people_see_the_first_three_bands() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 4, 5), dtype=np.uint8)
    np.testing.assert_array_equal(first_three(image), image[..., :3])
    for few in (image[..., :1], image[..., :2]):
        np.testing.assert_array_equal(first_three(few), np.repeat(image[..., :1], 3, axis=-1))
