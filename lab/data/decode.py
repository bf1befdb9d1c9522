"""Encoded image files to pixels: libjpeg-turbo for ordinary JPEG files, NumPy for .npy, Pillow for everything else.

Both decoders are libjpeg-turbo with its accurate inverse DCT, so that a whole image has the same pixels whichever of
them read it; where simplejpeg is not installed (a deployed bundle), Pillow decodes all, at half the speed.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
from numpy.lib import format as npy
from PIL import Image, ImageOps, UnidentifiedImageError

from lab.core.errors import DataError

# What Pillow's decoders raise on damaged files; the set differs by format.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_EXIF_ORIENTATION = 0x0112
_TRANSPOSING = (5, 6, 7, 8)
# Start-of-frame markers that libjpeg-turbo decodes: baseline, extended, progressive.
_FRAMES = (0xC0, 0xC1, 0xC2)
_START_OF_SCAN, _EXIF_SEGMENT = 0xDA, 0xE1
_NPY_MAGIC = b"\x93NUMPY"


@dataclass(frozen=True)
class JpegHeader:
    """What the markers before the first scan say: size in pixels as stored, number of components, EXIF orientation."""

    height: int
    width: int
    components: int
    orientation: int

    @property
    def is_plain(self) -> bool:
        """Grey or three-channel, upright, and of a size that Pillow would not warn of."""
        bound = Image.MAX_IMAGE_PIXELS or 0
        return self.components in (1, 3) and self.orientation == 1 and self.height * self.width <= bound


def decode(content: bytes, name: str, min_size: tuple[int, int] | None = None) -> np.ndarray:
    """An image file's bytes to uint8 HWC with C 1 (grey files) or 3, rotated as its EXIF tag says.

    A NumPy file (.npy) of uint8 [H, W] or [H, W, C] has any number of channels, such as the bands of a satellite. With
    `min_size` (height, width) a JPEG file may come out at 1/2, 1/4 or 1/8 of its size, as long as it is at least that
    large: much less work, for training only. `name` stands for the file in messages.

    Raises:
        DataError: not an image, or damaged; names the file.
    """
    header = jpeg_header(content)
    if header is not None and header.is_plain:
        image = _turbo(content, header, min_size)
        if image is not None:
            return image
    return _numpy(content, name) if content.startswith(_NPY_MAGIC) else _pillow(content, name)


@dataclass(frozen=True)
class Geometry:
    """(height, width) of an image as stored, and the EXIF orientation (1..8) by which it is turned to be upright."""

    stored: tuple[int, int]
    orientation: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the upright image."""
        return (self.stored[1], self.stored[0]) if self.orientation in _TRANSPOSING else self.stored


def image_geometry(content: bytes, name: str) -> Geometry:
    """From the header alone, of which the first bytes of the file may suffice. Raises DataError when it is no image."""
    header = jpeg_header(content)
    if header is not None and header.height:
        return Geometry((header.height, header.width), header.orientation)
    if content.startswith(_NPY_MAGIC):
        return Geometry(_numpy_size(content, name), 1)
    try:
        with Image.open(BytesIO(content)) as image:
            width, height = image.size
            return Geometry((height, width), int(image.getexif().get(_EXIF_ORIENTATION, 1)))
    except (*_DECODE_ERRORS, TypeError) as error:
        raise _undecodable(content, name, error) from error


def image_size(content: bytes, name: str) -> tuple[int, int]:
    """(height, width) of the upright image, from the header alone. Raises DataError when it is no image."""
    return image_geometry(content, name).size


def suffix_of(content: bytes) -> str:
    """The usual file name suffix of an encoded image, "jpg", "png", ...; "bin" for what Pillow does not know."""
    if content[:3] == b"\xff\xd8\xff":
        return "jpg"
    if content.startswith(_NPY_MAGIC):
        return "npy"
    try:
        with Image.open(BytesIO(content)) as image:
            name = str(image.format).lower()
    except _DECODE_ERRORS:
        return "bin"
    return {"tiff": "tif", "jpeg": "jpg", "mpo": "jpg"}.get(name, name)


def jpeg_header(content: bytes) -> JpegHeader | None:
    """None when the bytes are no JPEG file, or no ordinary one (lossless, arithmetic, 12 bits: left to Pillow).

    Format: ITU-T T.81, annex B; the EXIF segment: CIPA DC-008, section 4.5.4.
    """
    if content[:2] != b"\xff\xd8":
        return None
    orientation, position = 1, 2
    frame: tuple[int, int, int] | None = None
    while position + 4 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == _START_OF_SCAN:
            return JpegHeader(*frame, orientation) if frame else None
        size = int.from_bytes(content[position + 2 : position + 4], "big")
        body = content[position + 4 : position + 2 + size]
        if marker in _FRAMES and len(body) >= 6 and body[0] == 8:
            height, width, components = struct.unpack(">HHB", body[1:6])
            frame = (height, width, components)
        elif marker == _EXIF_SEGMENT and body[:6] == b"Exif\0\0":
            orientation = _orientation(content)
        position += 2 + size
    return None


def _orientation(content: bytes) -> int:
    """0 where the tag cannot be read, so that the file is left to Pillow."""
    try:
        with Image.open(BytesIO(content)) as image:
            return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except (*_DECODE_ERRORS, TypeError):
        return 0


@cache
def _simplejpeg() -> Any:
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg


def _turbo(content: bytes, header: JpegHeader, min_size: tuple[int, int] | None) -> np.ndarray | None:
    """None where simplejpeg is absent or finds anything unusual: then Pillow decides what the file is."""
    library = _simplejpeg()
    if library is None:
        return None
    space = "GRAY" if header.components == 1 else "RGB"
    scale = _scale(header, min_size)
    height, width = (-(-size // scale) if scale > 1 else 0 for size in (header.height, header.width))
    try:
        image: np.ndarray = library.decode_jpeg(content, space, min_height=height, min_width=width, strict=True)
    except ValueError:
        return None
    return image


def _scale(header: JpegHeader, min_size: tuple[int, int] | None) -> int:
    """Largest of 8, 4, 2 by which both sides can be divided; these have fast inverse transforms, others have not."""
    if min_size is None:
        return 1
    room = min(header.height / max(min_size[0], 1), header.width / max(min_size[1], 1))
    return next((scale for scale in (8, 4, 2) if scale <= room), 1)


def _pillow(content: bytes, name: str) -> np.ndarray:
    try:
        with Image.open(BytesIO(content)) as image:
            image.load()
            return _to_uint8(ImageOps.exif_transpose(image))
    except _DECODE_ERRORS as error:
        raise _undecodable(content, name, error) from error


def _numpy(content: bytes, name: str) -> np.ndarray:
    _numpy_size(content, name)
    try:
        pixels: np.ndarray = np.load(BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise _undecodable(content, name, error) from error
    return pixels.reshape(*pixels.shape[:2], -1)


def _numpy_size(content: bytes, name: str) -> tuple[int, int]:
    """(height, width) from the header alone. Raises DataError for any array but uint8 of 2 or 3 dimensions."""
    stream = BytesIO(content)
    try:
        readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        shape, _, dtype = readers[npy.read_magic(stream)](stream)
    except (ValueError, KeyError) as error:
        raise _undecodable(content, name, error) from error
    if dtype != np.uint8 or len(shape) not in (2, 3) or 0 in shape:
        found = f"{dtype}{list(shape)}"
        raise DataError(f"{name} holds no image", got=found, expected="uint8 [height, width] or [height, width, bands]")
    return int(shape[0]), int(shape[1])


def _undecodable(content: bytes, name: str, error: BaseException) -> DataError:
    # PIL's message shows the buffer's address, which tells nobody anything.
    unknown = f"{len(content)} bytes that are no known image format"
    found = unknown if isinstance(error, UnidentifiedImageError) else f"{type(error).__name__}: {error}"
    return DataError(
        f"the image {name} cannot be decoded",
        got=found if content else "an empty file",
        expected="a complete image file (JPEG, PNG, BMP, WebP, ...; more than three bands: .npy)",
        hint="replace or remove the file; `lab data check` lists every broken one",
    )


def _to_uint8(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16") or image.mode == "I":
        # Pillow clips 16-bit grey to 255; keep the high byte instead.
        return (np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8).astype(np.uint8)[..., None]
    if image.mode in ("1", "L", "LA"):
        return np.asarray(image.convert("L"))[..., None]
    return np.asarray(image.convert("RGB"))


def decode_mask(content: bytes, name: str) -> np.ndarray:
    """A mask file to uint8 [H, W]: the indices of a palette image, or the values of a grey one (SS-I3).

    Raises:
        DataError: damaged, a colour image, or values beyond 255.
    """
    try:
        with Image.open(BytesIO(content)) as image:
            image.load()
            mask, mode = np.asarray(image), image.mode
    except _DECODE_ERRORS as error:
        raise _undecodable(content, name, error) from error
    if mode not in ("P", "L", "1") and not (mode.startswith("I") and mask.size and 0 <= mask.min() <= mask.max() < 256):
        raise DataError(
            f"{name} is not a mask",
            got=f"an image of mode {mode}",
            expected="one channel of class indices 0..255 (indexed or grey PNG)",
            hint="colours must be replaced by class indices first",
        )
    return mask.astype(np.uint8)
