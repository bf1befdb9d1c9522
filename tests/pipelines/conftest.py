"""One tiny run, trained once with its tracking in SQLite; tests that change it take a copy."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from lab.artifacts.rundir import RunDir
from lab.pipelines.context import OpenRun, load_config
from tests.tiny import tiny_config, write_config, write_tiny_idx

HERE = Path(__file__).parent
# MLflow 3.17 still uses this loader of SQLAlchemy, which 2.1 deprecates.
MLFLOW_WARNING = "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.filterwarnings(MLFLOW_WARNING))


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    write_tiny_idx(folder / "data")
    return folder


@pytest.fixture(scope="session")
def tracking(home: Path) -> dict[str, Any]:
    return {"enabled": True, "uri": f"sqlite:///{home / 'mlflow.db'}", "system_metrics": False}


@pytest.fixture(scope="session")
def trained_once(home: Path, tracking: dict[str, Any]) -> RunDir:
    from lab.pipelines.train import start

    path = write_config(home / "tiny.yaml", tiny_config(home / "data", tracking=tracking))
    previous = Path.cwd()
    os.chdir(home)
    try:
        report = start(load_config(path, [f"runs_dir={home / 'runs'}"]))
    finally:
        os.chdir(previous)
    return report.run


@pytest.fixture
def opened(trained_once: RunDir, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenRun:
    """A copy of the trained run, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "runs" / "classification" / trained_once.name
    shutil.copytree(trained_once.path, copy)
    return OpenRun.find(str(copy), tmp_path / "runs")
