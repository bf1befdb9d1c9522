"""A data set of every kind that tests write to a format and read back."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from lab.data.dataset import Annotation, Boxes, ImageDataset, Kind, Sample
from lab.data.decode import decode
from lab.data.raw import RawSample

LABELS = ("ant", "bee", "cat")


class Held:
    """Encoded images with annotations, held as given."""

    def __init__(self, kind: Kind, images: Sequence[bytes], annotations: Sequence[Any], labels: Sequence[str]) -> None:
        self.kind: Kind = kind
        self.images = list(images)
        self.annotations = list(annotations)
        self.labels = tuple(labels)
        self.source, self.digest = "held", "0"

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return Sample(decode(self.images[index], f"held[{index}]"), self.annotations[index], f"held[{index}]")

    def annotation(self, index: int) -> Annotation:
        found: Annotation = self.annotations[index]
        return found

    def targets(self) -> np.ndarray:
        return np.asarray(self.annotations)

    def raw(self, index: int) -> RawSample:
        return RawSample(self.images[index], self.annotations[index], f"held[{index}]", index)


def jpeg(pixels: np.ndarray, **options: Any) -> bytes:
    """An image file; JPEG unless `format` says otherwise."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, **({"format": "JPEG", "quality": 90} | options))
    return buffer.getvalue()


def noise(seed: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    """Smooth random pixels, as a photograph has."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (max(height // 8, 1), max(width // 8, 1), channels), dtype=np.uint8)
    grey = channels == 1
    image = Image.fromarray(small[..., 0] if grey else small).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)


def held(kind: Kind, num: int = 7) -> Held:
    """`num` JPEG images of various sizes with annotations of the kind."""
    rng = np.random.default_rng(num)
    images, annotations = [], list[Any]()
    for index in range(num):
        height, width = 20 + 3 * (index % 7), 40 - 2 * (index % 9)
        images.append(jpeg(noise(index, height, width)))
        if kind == "class":
            annotations.append(index % 3)
        elif kind == "mask":
            mask = rng.integers(0, 3, (height, width), dtype=np.uint8)
            mask[0] = 255
            annotations.append(mask)
        else:
            corners = rng.random((index % 4, 2, 2)) * [width / 2, height / 2] + [[[0, 0], [width / 2, height / 2]]]
            classes = rng.integers(0, 3, index % 4)
            annotations.append(Boxes.of(corners.reshape(-1, 4), classes, rng.random(index % 4) < 0.5))
    return Held(kind, images, annotations, LABELS)


def assert_equal(found: ImageDataset, expected: ImageDataset, atol: float = 0.0) -> None:
    """Same labels, images (bytes), annotations; corners of boxes up to `atol` pixels."""
    assert (found.kind, found.labels, len(found)) == (expected.kind, expected.labels, len(expected))
    for index in range(len(expected)):
        assert found.raw(index).image == expected.raw(index).image  # type: ignore[attr-defined]
        for label in (found[index].label, found.annotation(index)):
            assert_same_annotation(label, expected.annotation(index), atol)


def assert_same_annotation(found: Annotation, wanted: Annotation, atol: float = 0.0) -> None:
    """Equal up to `atol` pixels for the corners of boxes."""
    if isinstance(wanted, Boxes):
        assert isinstance(found, Boxes)
        np.testing.assert_allclose(found.boxes_K4, wanted.boxes_K4, rtol=0, atol=atol)
        np.testing.assert_array_equal(found.classes_K, wanted.classes_K)
        np.testing.assert_array_equal(found.ignore_K, wanted.ignore_K)
        assert (found.boxes_K4.dtype, found.classes_K.dtype, found.ignore_K.dtype) == (np.float32, np.int64, bool)
    else:
        np.testing.assert_array_equal(found, wanted)  # type: ignore[arg-type]
