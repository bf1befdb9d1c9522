"""Small image files for the formats that read them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SaveImage = Callable[..., Path]


@pytest.fixture
def save_image() -> SaveImage:
    """Write an image of one colour, (height, width) = 5 x 7 by default."""

    def save(path: Path, colour: object = (255, 0, 0), size: tuple[int, int] = (5, 7), mode: str = "RGB") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, (size[1], size[0]), colour).save(path)  # type: ignore[arg-type]
        return path

    return save


@pytest.fixture
def image_root(tmp_path: Path, save_image: SaveImage) -> Path:
    """Three classes with two images each; one is nested, one has upper-case letters in its suffix."""
    root = tmp_path / "images"
    for number, label in enumerate(("ant", "bee", "cat")):
        save_image(root / label / "1.png", (number * 10, 0, 0))
        save_image(root / label / "deeper" / "2.JPG", (number * 10, 0, 0))
    (root / "ant" / "notes.txt").write_text("not an image")
    (root / "ant" / ".hidden.png").write_bytes(b"x")
    return root


@pytest.fixture
def random_images() -> np.ndarray:
    """Eleven images, 13 x 17, RGB."""
    return np.random.default_rng(0).integers(0, 256, (11, 13, 17, 3), dtype=np.uint8)
