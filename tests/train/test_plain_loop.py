"""The same model, data, seed and schedule give the same loss curve as a plain PyTorch loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lab.artifacts.rundir import RunDir
from lab.config.run import RunConfig
from lab.core.host import num_cores
from lab.nn.learning import LearningTask
from lab.train.fit import fit
from lab.train.records import read_lines
from tests.train.fake_task import FakeTask, ListTracker, fake_config
from tests.train.plain_loop import plain_loop

TOLERANCE = 1e-5


def assert_same_loss_curve(task: LearningTask, config: RunConfig, folder: Path) -> list[float]:
    """Train with `fit` and with the plain loop (a CPU run with log_every_n_steps: 1); compare every step's loss."""
    fit(task, config, RunDir(folder), ListTracker())
    threads = torch.get_num_threads()
    torch.set_num_threads(config.train.num_threads or num_cores())  # another number adds up in another order
    ours = [line["train/loss"] for line in read_lines(folder / "metrics.jsonl") if "train/loss" in line]
    try:
        plain = list(plain_loop(task, config))
    finally:
        torch.set_num_threads(threads)
    assert len(ours) == len(plain)
    np.testing.assert_allclose(ours, plain, rtol=0, atol=TOLERANCE)
    return ours


@pytest.mark.parametrize(
    "sections",
    [
        {"schedule": {"name": "one_cycle"}},
        {"optimizer": {"name": "nag", "learning_rate": 0.03, "weight_decay": 0.01}},
        {"optimizer": {"name": "adam", "learning_rate": 0.01}, "schedule": {"name": "one_cycle", "peak_at": 0.4}},
        {"train": {"limit_train_batches": 5}, "schedule": {"name": "one_cycle"}},
    ],
)
def test_loss_curve_equals_that_of_a_plain_loop(tmp_path: Path, sections: dict[str, Any]) -> None:
    config = fake_config(**sections)
    losses = assert_same_loss_curve(FakeTask(config), config, tmp_path)
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
