"""Runs of the fake task, and how two of them are compared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.artifacts.rundir import RunDir
from lab.core import progress
from lab.train.fit import FitResult, fit
from lab.train.records import read_lines
from lab.train.weights import read_tensors
from tests.train.fake_task import FakeConfig, FakeTask, ListTracker

TIMES = ("epoch_s", "images_per_s")


class Lab:
    """Trains fake tasks in folders below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def dir(self, name: str) -> RunDir:
        (self.root / name).mkdir(parents=True, exist_ok=True)
        return RunDir(self.root / name)

    def fit(
        self,
        name: str,
        config: FakeConfig,
        *,
        resume: bool = False,
        task: Any = None,
        tracker: ListTracker | None = None,
    ) -> FitResult:
        return fit(task or FakeTask(config), config, self.dir(name), tracker or ListTracker(), resume=resume)

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        return read_tensors(self.dir(name).weights)

    def state(self, name: str) -> dict[str, torch.Tensor]:
        """Every tensor of the last checkpoint: model, optimizer, averages, metrics, random states."""
        return read_tensors(self.dir(name).checkpoint / "tensors.safetensors")

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The metrics file without the times, which no two runs share."""
        return [{k: v for k, v in line.items() if k not in TIMES} for line in read_lines(self.dir(name).metrics)]

    def assert_equal(self, one: str, other: str) -> None:
        """Two runs ended bit-equal: weights, whole training state, and every line of metrics."""
        for left, right in ((self.weights(one), self.weights(other)), (self.state(one), self.state(other))):
            assert left.keys() == right.keys()
            assert [key for key in left if not torch.equal(left[key], right[key])] == []
        assert self.lines(one) == self.lines(other)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture(autouse=True)
def _loud() -> Iterator[None]:
    progress.set_quiet(False)
    yield
    progress.set_quiet(False)
