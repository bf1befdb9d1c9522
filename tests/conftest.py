"""Shared by every test: no test may read this machine's own data, runs or tracking server."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.core.host import share_cores

share_cores()  # before any test imports PyTorch

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "LAB_RUNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def repo() -> Path:
    return REPO
