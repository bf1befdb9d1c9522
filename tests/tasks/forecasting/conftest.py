"""A tiny task, whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.config.load import build, parse_source
from lab.tasks.forecasting.config import ForecastingConfig
from lab.tasks.forecasting.learn import ForecastingTask
from tests.tasks.forecasting.tiny import tiny_config, write_tiny_series


def config_of(raw: dict[str, Any]) -> ForecastingConfig:
    config: ForecastingConfig = build(parse_source(yaml.safe_dump(raw), "case"), ForecastingConfig)
    return config


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return tiny_config(write_tiny_series(tmp_path_factory.mktemp("series")))


@pytest.fixture(scope="session")
def task(raw: dict[str, Any]) -> ForecastingTask:
    return ForecastingTask(config_of(raw))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_series(tmp_path)
