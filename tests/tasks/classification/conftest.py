"""Small data sets in every format, and tasks on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lab.config.load import build, parse_source, to_yaml
from lab.data.formats.idx import write_idx
from lab.data.formats.lst import write as write_lst
from lab.tasks.classification.config import ClassificationConfig
from lab.tasks.classification.learn import ClassificationTask

MakeTask = Callable[..., ClassificationTask]
NUM = 53


@pytest.fixture
def idx_files(tmp_path: Path) -> Path:
    """53 images of 13 x 11 whose brightness tells their class (of three); returns the image file."""
    rng = np.random.default_rng(0)
    targets = np.arange(NUM) % 3
    images = rng.integers(0, 60, (NUM, 13, 11)) + 90 * targets[:, None, None]
    write_idx(tmp_path / "images.idx", images.astype(np.uint8))
    write_idx(tmp_path / "labels.idx", targets.astype(np.uint8))
    return tmp_path / "images.idx"


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Two classes of 9 RGB images, between 19 x 23 and 27 x 31."""
    rng = np.random.default_rng(1)
    for number in range(18):
        label = ("left", "right")[number % 2]
        folder = tmp_path / "pictures" / label
        folder.mkdir(parents=True, exist_ok=True)
        size = (19 + number % 9, 23 + number % 9, 3)
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(folder / f"{number:02}.png")
    return tmp_path / "pictures"


@pytest.fixture
def listing(image_folder: Path) -> Path:
    """The same images as a .lst with three labels each, in multi-hot form."""
    names = sorted(path.relative_to(image_folder).as_posix() for path in image_folder.rglob("*.png"))
    rows = [([int(number % 2 == 0), int(number % 3 == 0), 1], name) for number, name in enumerate(names)]
    write_lst(image_folder / "train.lst", rows)
    return image_folder / "train.lst"


@pytest.fixture
def make_task() -> MakeTask:
    """Build a task from sections; small by default."""

    def make(**sections: Any) -> ClassificationTask:
        base: dict[str, Any] = {
            "task": "classification",
            "model": {"name": "resnet20", "width": 4},
            "train": {"batch_size": 7, "device": "cpu"},
        }
        config = ClassificationConfig.model_validate(base | sections)
        return ClassificationTask(build(parse_source(to_yaml(config), "test.yaml"), ClassificationConfig))

    return make


@pytest.fixture
def memory_task(idx_files: Path, make_task: MakeTask) -> MakeTask:
    """A task on the IDX files; further sections as arguments."""

    def make(**sections: Any) -> ClassificationTask:
        data = {"format": "idx", "train": str(idx_files), "validation_fraction": 0.2}
        return make_task(**({"data": data, "image": {"shape": [1, 13, 11]}} | sections))

    return make


@pytest.fixture
def folder_task(image_folder: Path, make_task: MakeTask) -> MakeTask:
    """A task on the image folder; further sections as arguments."""

    def make(**sections: Any) -> ClassificationTask:
        data = {"train": str(image_folder), "validation_fraction": 0.2}
        return make_task(**({"data": data, "image": {"shape": [3, 17, 13]}} | sections))

    return make
