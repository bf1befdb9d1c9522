"""Shared by every test: no test may read this machine's own data, runs or tracking server."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from lab.core.host import share_cores

share_cores()  # before any test imports PyTorch

# CI tries the same examples every time, so that a change is judged by itself; elsewhere new ones are explored.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "LAB_RUNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def repo() -> Path:
    return REPO
