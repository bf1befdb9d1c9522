"""A migrated MLflow database made once, copied for each test; the tests run in a folder of their own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.config.run import TrackingConfig
from lab.tracking import MlflowTracker, open_tracker, server

HERE = Path(__file__).parent
MLFLOW_WARNINGS = (
    # MLflow 3.17 still uses this loader of SQLAlchemy, which 2.1 deprecates.
    "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            for line in MLFLOW_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(line))


@pytest.fixture(scope="session")
def migrated_db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    server.connect(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value in server.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(server.TIMEOUT_VARIABLE, "10")


@pytest.fixture
def uri(tmp_path: Path, migrated_db: Path) -> str:
    shutil.copy(migrated_db, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def client(uri: str) -> Any:
    return server.connect(uri)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "classification" / "first"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("task: classification\n")
    return folder


@pytest.fixture
def start(run_folder: Path) -> Iterator[Callable[..., MlflowTracker]]:
    """Open trackers on the test's run folder; those left open are finished."""
    opened: list[MlflowTracker] = []

    def open_one(uri: str, *, system_metrics: bool = False, name: str = "first", **more: Any) -> MlflowTracker:
        config = TrackingConfig(uri=uri, system_metrics=system_metrics)
        tracker = open_tracker(config, experiment="lab-classification", run_name=name, folder=run_folder, **more)
        assert isinstance(tracker, MlflowTracker)
        opened.append(tracker)
        return tracker

    yield open_one
    for tracker in opened:
        tracker.finish()
