"""A detection task on the tiny data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.config.load import build, parse_source, to_yaml
from lab.tasks.detection.config import DetectionConfig
from lab.tasks.detection.learn import DetectionTask
from tests.tasks.detection.tiny import tiny_config, write_tiny_coco

MakeTask = Callable[..., DetectionTask]


@pytest.fixture(scope="session")
def listing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO files of 40 images."""
    return write_tiny_coco(tmp_path_factory.mktemp("coco"))


@pytest.fixture
def make_task(listing: Path) -> MakeTask:
    """Build a task; sections of the configuration as arguments."""

    def make(**sections: Any) -> DetectionTask:
        config = DetectionConfig.model_validate(tiny_config(listing, **sections))
        return DetectionTask(build(parse_source(to_yaml(config), "test.yaml"), DetectionConfig))

    return make
