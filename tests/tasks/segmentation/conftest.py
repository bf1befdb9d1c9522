"""Tasks on the tiny data set of coloured shapes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.config.load import build, parse_source
from lab.tasks.segmentation.config import SegmentationConfig
from lab.tasks.segmentation.learn import SegmentationTask
from tests.tasks.segmentation.tiny import tiny_config, write_tiny_masks

MakeTask = Callable[..., SegmentationTask]


@pytest.fixture(scope="session")
def tiny_masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_masks(tmp_path_factory.mktemp("masks"))


@pytest.fixture
def make_task(tiny_masks: Path) -> MakeTask:
    """Build a task on the tiny data; keyword arguments update sections."""

    def make(**sections: dict[str, Any]) -> SegmentationTask:
        raw = tiny_config(tiny_masks)
        for name, section in sections.items():
            raw[name] = raw.get(name, {}) | section
        return SegmentationTask(build(parse_source(yaml.safe_dump(raw), "test.yaml"), SegmentationConfig))

    return make
