"""Deterministic image preprocessing in numpy and Pillow, the same for training's evaluation, prediction and serving.

Shape letters: N images, C channels, H height, W width. Images are uint8 HWC until they are normalised to float32 NCHW.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from PIL import Image

from lab.core.errors import ArtifactError, DataError
from lab.data.decode import decode

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".npy")
"""Suffixes, in lower case, of files that are taken for images below a folder."""
Box = tuple[float, float, float, float]
"""left, upper, right, lower in pixels, as Pillow has it."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Preprocessing = TypeVar("Preprocessing", bound="DataclassInstance")
_INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class ImagePreprocessing:
    """From an image of any size to the network's input.

    `shape` is (C, H, W). `resize` scales the shorter side to so many pixels first. `crop` "center" then cuts H x W from
    the middle; "none" resizes to H x W without keeping the aspect (what Amazon SageMaker does at inference). `mean` and
    `std` are per channel, of pixels scaled to 0..1.
    """

    shape: tuple[int, int, int]
    resize: int | None = None
    crop: Literal["center", "none"] = "center"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        channels = self.shape[0]
        if min(self.shape) < 1:
            raise ArtifactError(
                "the image shape is unusable", got=list(self.shape), expected="[channels, height, width]"
            )
        if len(self.mean) != channels or len(self.std) != channels or min(self.std) <= 0:
            raise ArtifactError(
                "mean and std do not fit the channels",
                got=f"mean {self.mean}, std {self.std}",
                expected=f"{channels} values each, std > 0",
            )
        if self.interpolation not in _INTERPOLATIONS or self.crop not in ("center", "none"):
            raise ArtifactError(
                "unknown interpolation or crop",
                got=f"{self.interpolation}, {self.crop}",
                expected=f"interpolation {', '.join(_INTERPOLATIONS)}; crop center, none",
            )

    def to_dict(self) -> dict[str, Any]:
        return to_manifest(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ImagePreprocessing:
        """Raises ArtifactError as `from_manifest`, or on unusable fields."""
        return from_manifest(cls, data, ("shape",))


def to_manifest(preprocessing: DataclassInstance) -> dict[str, Any]:
    """A preprocessing dataclass as JSON-able values, for the manifest."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(preprocessing).items()}


def from_manifest(kind: type[Preprocessing], data: Mapping[str, Any], required: Collection[str]) -> Preprocessing:
    """The preprocessing dataclass that `to_manifest` wrote. Raises ArtifactError on unknown or missing fields."""
    known = {field.name for field in fields(kind)}
    if set(data) - known or set(required) - set(data):
        raise ArtifactError("the preprocessing is not understood", got=sorted(data), expected=sorted(known))
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in data.items()})


def load_image(path: Path) -> np.ndarray:
    """Decode an image file to uint8 HWC with C 1 (grey files), 3, or any (.npy), rotated as its EXIF tag says.

    Raises:
        DataError: missing, not an image, or damaged; names the file.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"there is no image at {path}") from error
    except OSError as error:
        raise DataError(f"the image {path} cannot be read", got=error.strerror or error) from error
    return decode_image(content, str(path))


def decode_image(content: bytes, name: str) -> np.ndarray:
    """`load_image` for bytes in memory; `name` stands for the file in messages."""
    return decode(content, name)


def to_channels(image_HWC: np.ndarray, num_channels: int) -> np.ndarray:
    """Grey to RGB by repetition, RGB to grey by the ITU-R 601 luma that Pillow uses; works on HWC and NHWC.

    Any other number of channels stays as it is.

    Raises:
        DataError: another number of channels.
    """
    found = image_HWC.shape[-1]
    if found == num_channels:
        return image_HWC
    if (found, num_channels) == (1, 3):
        return np.repeat(image_HWC, 3, axis=-1)
    if (found, num_channels) == (3, 1):
        weighted = image_HWC.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32) + 0x8000
        return (weighted >> 16).astype(np.uint8)[..., None]
    expected = f"1 or 3, to become {num_channels}" if num_channels in (1, 3) else num_channels
    raise DataError("the image has the wrong number of channels", got=found, expected=expected)


def first_three(image_HWC: np.ndarray) -> np.ndarray:
    """What people see of an image: RGB; of more channels than three the first three, of fewer the first one as grey."""
    return image_HWC[..., :3] if image_HWC.shape[-1] >= 3 else to_channels(image_HWC[..., :1], 3)


def resize_image(
    image_HWC: np.ndarray, height: int, width: int, interpolation: str = "bilinear", box: Box | None = None
) -> np.ndarray:
    """Resize uint8 HWC, or the part of it in `box`, with antialiasing (Pillow); returns it when the size is right."""
    if box is None and image_HWC.shape[:2] == (height, width):
        return image_HWC
    num_channels = image_HWC.shape[2]
    # Pillow knows images of one channel and of three.
    step = 3 if num_channels % 3 == 0 else 1
    resized = [
        _resized(image_HWC[..., first : first + step], height, width, interpolation, box)
        for first in range(0, num_channels, step)
    ]
    return resized[0] if len(resized) == 1 else np.concatenate(resized, axis=-1)


def _resized(image_HWC: np.ndarray, height: int, width: int, interpolation: str, box: Box | None) -> np.ndarray:
    grey = image_HWC.shape[2] == 1
    source = Image.fromarray(np.ascontiguousarray(image_HWC[..., 0] if grey else image_HWC))
    resized = np.asarray(source.resize((width, height), _INTERPOLATIONS[interpolation], box=box))
    return resized[..., None] if grey else resized


def resize_shorter(image_HWC: np.ndarray, size: int, interpolation: str = "bilinear") -> np.ndarray:
    """Scale so that the shorter side has `size` pixels, keeping the aspect."""
    height, width = image_HWC.shape[:2]
    if height <= width:
        return resize_image(image_HWC, size, max(size, int(size * width / height)), interpolation)
    return resize_image(image_HWC, max(size, int(size * height / width)), size, interpolation)


def center_crop(image_HWC: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cut height x width from the middle. Raises DataError when the image is smaller."""
    check_large_enough(image_HWC.shape[0], image_HWC.shape[1], height, width)
    top, left = (image_HWC.shape[0] - height) // 2, (image_HWC.shape[1] - width) // 2
    return image_HWC[top : top + height, left : left + width]


def check_large_enough(found_height: int, found_width: int, height: int, width: int, name: str = "") -> None:
    """Raises DataError when an image is smaller than height x width in any dimension."""
    if found_height < height or found_width < width:
        raise DataError(
            f"the image {name or ''} is smaller than the crop".replace("  ", " "),
            got=f"{found_height} x {found_width} (height x width)",
            expected=f"at least {height} x {width}",
            hint="set image.resize to scale the shorter side up, image.crop: none, or (training) augment.crop_padding",
        )


def fit(image_HWC: np.ndarray, preprocessing: ImagePreprocessing) -> np.ndarray:
    """One uint8 image of any size to uint8 of the configured (H, W, C): channels, resize, crop."""
    channels, height, width = preprocessing.shape
    if image_HWC.dtype != np.uint8 or image_HWC.ndim != 3:
        raise DataError(
            "not an image", got=f"{image_HWC.dtype}{list(image_HWC.shape)}", expected="uint8[height, width, channels]"
        )
    image = to_channels(image_HWC, channels)
    if preprocessing.resize is not None:
        image = resize_shorter(image, preprocessing.resize, preprocessing.interpolation)
    if preprocessing.crop == "none":
        return resize_image(image, height, width, preprocessing.interpolation)
    return center_crop(image, height, width)


def fit_all(images: Sequence[np.ndarray] | np.ndarray, preprocessing: ImagePreprocessing) -> np.ndarray:
    """`fit` for many: uint8 NHWC. A batch of the right size already is only converted in its channels."""
    channels, height, width = preprocessing.shape
    keeps_size = preprocessing.resize in (None, min(height, width))
    batch = images if isinstance(images, np.ndarray) and images.ndim == 4 and images.dtype == np.uint8 else None
    if batch is not None and batch.shape[1:3] == (height, width) and keeps_size:
        return to_channels(batch, channels)
    fitted = [fit(image, preprocessing) for image in images]
    return np.stack(fitted) if fitted else np.empty((0, height, width, channels), np.uint8)


def normalization(mean: Sequence[float], std: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Float32 (scale, offset) per channel with x * scale + offset = (x / 255 - mean) / std, for x in 0..255."""
    wide_mean, wide_std = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    return (1.0 / (255.0 * wide_std)).astype(np.float32), (-wide_mean / wide_std).astype(np.float32)


def normalized(images_NHWC: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Images of 0..255 as the network's input: float32 NCHW, (x / 255 - mean) / std."""
    scale_C, offset_C = normalization(mean, std)
    x_NCHW = images_NHWC.transpose(0, 3, 1, 2).astype(np.float32, order="C")
    x_NCHW *= scale_C[:, None, None]
    x_NCHW += offset_C[:, None, None]
    return x_NCHW


def apply(images: Sequence[np.ndarray] | np.ndarray, preprocessing: ImagePreprocessing) -> np.ndarray:
    """Uint8 HWC images (any sizes) to the network's float32 NCHW input.

    Raises:
        DataError: not uint8 HWC, or too small for a centre crop.
    """
    return normalized(fit_all(images, preprocessing), preprocessing.mean, preprocessing.std)
