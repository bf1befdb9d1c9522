"""Shared by every test: no test may read this machine's own data, runs or tracking server."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from lab.core.host import share_cores
from lab.core.progress import set_quiet

share_cores()  # before any test imports PyTorch

# CI tries the same examples every time, so that a change is judged by itself; elsewhere new ones are explored.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

REPO = Path(__file__).resolve().parents[1]


_exit_status: int | None = None


def pytest_sessionfinish(exitstatus: int) -> None:
    global _exit_status
    _exit_status = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """Leave with the tests' own status, without the interpreter's teardown.

    PyTorch, TVM's LLVM, ONNX Runtime and OpenVINO all live in this one process; their destructors, in an order nobody
    chose, ended one of five whole runs with a segmentation fault after the last test had passed. In processes of their
    own, as users have them, they end cleanly.
    """
    if _exit_status is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_exit_status)


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "LAB_RUNS", "LAB_DATA"):
        monkeypatch.delenv(name, raising=False)
    set_quiet(False)  # a command that a test called with --json leaves it on


@pytest.fixture(scope="session")
def repo() -> Path:
    return REPO
