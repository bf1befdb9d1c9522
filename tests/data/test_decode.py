"""Decoding: libjpeg-turbo and Pillow agree to the last bit; unusual files are left to Pillow; scaled decoding."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from lab.core.errors import DataError
from lab.data.decode import decode, decode_mask, image_size, jpeg_header, suffix_of
from tests.data.held import jpeg, noise


def with_pillow(content: bytes) -> np.ndarray:
    """What the lab decoded before simplejpeg was used."""
    with Image.open(BytesIO(content)) as image:
        upright = ImageOps.exif_transpose(image)
        return np.asarray(upright.convert("L"))[..., None] if image.mode == "L" else np.asarray(upright.convert("RGB"))


def with_exif(orientation: int, height: int = 24, width: int = 40) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(noise(3, height, width), exif=exif)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (17, 33), (200, 131)])
def test_every_pixel_is_pillows(subsampling: int, progressive: bool, size: tuple[int, int]) -> None:
    for channels in (1, 3):
        pixels = noise(subsampling, *size, channels)
        content = jpeg(pixels, subsampling=subsampling, progressive=progressive, quality=85)
        np.testing.assert_array_equal(decode(content, "a"), with_pillow(content))


@given(st.integers(0, 2**31), st.integers(1, 70), st.integers(1, 70), st.integers(5, 100), st.sampled_from([0, 1, 2]))
def test_every_pixel_is_pillows_on_noise(seed: int, height: int, width: int, quality: int, subsampling: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    content = jpeg(pixels, quality=quality, subsampling=subsampling)
    np.testing.assert_array_equal(decode(content, "a"), with_pillow(content))
    assert image_size(content, "a") == (height, width)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations(orientation: int) -> None:
    content = with_exif(orientation)
    expected = with_pillow(content)
    np.testing.assert_array_equal(decode(content, "a"), expected)
    np.testing.assert_array_equal(decode(content, "a", (4, 4))[:1, :1].shape, (1, 1, 3))
    assert image_size(content, "a") == expected.shape[:2]
    assert expected.shape[:2] == ((40, 24) if orientation >= 5 else (24, 40))


def test_cmyk_and_16_bit() -> None:
    buffer = BytesIO()
    Image.fromarray(noise(0, 20, 30)).convert("CMYK").save(buffer, "JPEG")
    np.testing.assert_array_equal(decode(buffer.getvalue(), "a"), with_pillow(buffer.getvalue()))
    deep = np.arange(600, dtype=np.uint16).reshape(20, 30) * 100
    grey = decode(jpeg(deep, format="PNG"), "a")
    np.testing.assert_array_equal(grey[..., 0], deep >> 8)


@pytest.mark.parametrize(
    ("min_size", "scale"), [((48, 48), 2), ((49, 48), 1), ((24, 30), 4), ((12, 18), 8), ((1, 1), 8), ((99, 300), 1)]
)
def test_scaled_decoding(min_size: tuple[int, int], scale: int) -> None:
    ramp = np.add.outer(np.arange(96), np.arange(160))[..., None] * [1, 0.5, 0.25]
    content = jpeg(ramp.astype(np.uint8))
    image = decode(content, "a", min_size)
    assert image.shape == (96 // scale, 160 // scale, 3)
    assert scale == 1 or (image.shape[0] >= min_size[0] and image.shape[1] >= min_size[1])
    mean = ramp.reshape(image.shape[0], scale, image.shape[1], scale, 3).mean(axis=(1, 3))
    assert np.abs(image - mean).max() < 4
    assert decode(jpeg(noise(0, 99, 150)), "a", (10, 10)).shape == (13, 19, 3)


def test_without_simplejpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    content = jpeg(noise(5, 50, 70))
    expected = decode(content, "a")
    monkeypatch.setattr("lab.data.decode._simplejpeg", lambda: None)
    np.testing.assert_array_equal(decode(content, "a", (10, 10)), expected)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe0junk", b"GIF89a", jpeg(noise(0, 64, 64))[:700]]
)
def test_damaged(content: bytes) -> None:
    with pytest.raises(DataError, match=r"the image a\.jpg cannot be decoded"):
        decode(content, "a.jpg")
    with pytest.raises(DataError, match="cannot be decoded"):
        decode(content, "a.jpg", (8, 8))


def test_headers() -> None:
    assert jpeg_header(jpeg(noise(0, 9, 8), format="PNG")) is None
    header = jpeg_header(with_exif(6))
    assert header is not None
    assert (header.height, header.width, header.components, header.orientation) == (24, 40, 3, 6)
    assert not header.is_plain
    found = [suffix_of(jpeg(noise(0, 9, 8), format=name)) for name in ("JPEG", "PNG", "TIFF", "WEBP", "BMP")]
    assert found == ["jpg", "png", "tif", "webp", "bmp"]
    assert suffix_of(b"?") == "bin"
    assert image_size(jpeg(noise(0, 9, 8), format="PNG"), "a") == (9, 8)
    with pytest.raises(DataError, match="cannot be decoded"):
        image_size(b"?", "a")


def test_masks() -> None:
    values = np.array([[0, 1, 255], [7, 8, 9]], np.uint8)
    palette = Image.fromarray(values, "L")
    indexed = palette.copy()
    indexed.putpalette([5] * 768)
    for image in (palette, indexed):
        buffer = BytesIO()
        image.save(buffer, "PNG")
        np.testing.assert_array_equal(decode_mask(buffer.getvalue(), "m"), values)
    np.testing.assert_array_equal(decode_mask(jpeg(values.astype(np.uint16), format="PNG"), "m"), values)
    wrong: list[Any] = [values.astype(np.uint16) * 300, np.zeros((2, 2, 3), np.uint8)]
    for pixels in wrong:
        with pytest.raises(DataError, match="m is not a mask"):
            decode_mask(jpeg(pixels, format="PNG"), "m")
    with pytest.raises(DataError, match="cannot be decoded"):
        decode_mask(b"", "m")


def numpy_file(pixels: np.ndarray) -> bytes:
    buffer = BytesIO()
    np.save(buffer, pixels)
    return buffer.getvalue()


@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 40), st.integers(1, 9))
def test_numpy_files_hold_any_number_of_bands(seed: int, height: int, width: int, bands: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, bands), dtype=np.uint8)
    content = numpy_file(pixels)
    np.testing.assert_array_equal(decode(content, "a.npy"), pixels)
    np.testing.assert_array_equal(decode(numpy_file(np.asfortranarray(pixels)), "a.npy"), pixels)
    np.testing.assert_array_equal(decode(numpy_file(pixels[..., 0]), "a.npy"), pixels[..., :1])
    assert image_size(content[:128], "a.npy") == (height, width)  # the header is enough
    assert suffix_of(content) == "npy"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (numpy_file(np.zeros((4, 4, 3), np.float32)), "holds no image"),
        (numpy_file(np.zeros(4, np.uint8)), "holds no image"),
        (numpy_file(np.zeros((0, 4, 3), np.uint8)), "holds no image"),
        (numpy_file(np.array([{"a": 1}] * 4).reshape(2, 2)), "holds no image"),  # pickled objects are never loaded
        (numpy_file(np.zeros((40, 40, 4), np.uint8))[:500], "cannot be decoded"),
        (b"\x93NUMPY\x09\x00garbage", "cannot be decoded"),
        (b"\x93NUMPY\x01\x00", "cannot be decoded"),
    ],
)
def test_numpy_files_that_are_no_images(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=r"bad\.npy") as caught:
        decode(content, "bad.npy")
    assert message in str(caught.value)
