"""A run that was cut off anywhere and resumed ends bit-equal to an uninterrupted one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lab.core.errors import ArtifactError
from tests.train.conftest import Lab
from tests.train.fake_task import FakeConfig, FakeTask, ListTracker, fake_config

STEPS_PER_EPOCH = 12  # 89 samples in batches of 8


class CrashError(Exception):
    """Stands for a process that ends without warning."""


class CutTask(FakeTask):
    """Calls `cut` at training step `at_step` (from 1), or in the validation after `at_validation` epochs."""

    def __init__(
        self,
        config: FakeConfig,
        cut: Callable[[], None],
        *,
        at_step: int | None = None,
        at_validation: int | None = None,
    ) -> None:
        super().__init__(config)
        self.cut, self.at_step, self.at_validation = cut, at_step, at_validation
        self.num_steps, self.num_validations = 0, 0

    def step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        self.num_steps += model.training
        self.num_validations += not model.training
        batches = 3  # of validation
        if self.num_steps == self.at_step and model.training:
            self.cut()
        if self.at_validation and not model.training and self.num_validations == batches * (self.at_validation - 1) + 2:
            self.cut()
        return super().step(model, batch)


def crash() -> None:
    raise CrashError


def scramble() -> None:
    """Leave no global random state as it was."""
    torch.manual_seed(991)
    np.random.seed(992)
    random.seed(993)


def cut_and_resume(lab: Lab, config: FakeConfig, **where: int) -> ListTracker:
    tracker = ListTracker()
    with pytest.raises(CrashError):
        lab.fit("resumed", config, task=CutTask(config, crash, **where), tracker=tracker)
    scramble()
    lab.fit("resumed", config, resume=True, tracker=tracker)
    return tracker


CASES = {
    "sgd": {},
    "ema_adam_one_cycle": {
        "train": {"ema_decay": 0.9},
        "optimizer": {"name": "adam", "learning_rate": 0.01},
        "schedule": {"name": "one_cycle"},
    },
    "accumulate_clip_cosine": {
        "train": {"accumulate_batches": 2, "gradient_clip_norm": 0.5},
        "optimizer": {"name": "nag"},
        "schedule": {"name": "cosine", "warmup_epochs": 0.5},
    },
    "channels_last": {"train": {"channels_last": True, "log_every_n_steps": 5}},
    "rmsprop": {"optimizer": {"name": "rmsprop", "learning_rate": 0.005}},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("at_step", [16, 31])
def test_cut_in_an_epoch_ends_bit_equal(lab: Lab, case: str, at_step: int) -> None:
    config = fake_config(**CASES[case], checkpoint={"every_n_steps": 3})
    lab.fit("whole", config)
    cut_and_resume(lab, config, at_step=at_step)
    lab.assert_equal("whole", "resumed")


@pytest.mark.parametrize("at_epoch", [1, 2, 3])
@pytest.mark.parametrize("every_n_steps", [None, 5])
def test_cut_in_validation_ends_bit_equal(lab: Lab, at_epoch: int, every_n_steps: int | None) -> None:
    config = fake_config(train={"ema_decay": 0.8}, checkpoint={"every_n_steps": every_n_steps})
    lab.fit("whole", config)
    cut_and_resume(lab, config, at_validation=at_epoch)
    lab.assert_equal("whole", "resumed")


def test_cut_at_the_first_step_of_an_epoch_ends_bit_equal(lab: Lab) -> None:
    config = fake_config()
    lab.fit("whole", config)
    cut_and_resume(lab, config, at_step=STEPS_PER_EPOCH + 1)
    lab.assert_equal("whole", "resumed")


def test_early_stopping_goes_on_counting(lab: Lab) -> None:
    config = fake_config(
        train={"epochs": 12},
        optimizer={"learning_rate": 1e-6},
        early_stopping={"enabled": True, "min_epochs": 2, "patience": 4, "tolerance": 0.9},
        checkpoint={"every_n_steps": 5},
    )
    whole = lab.fit("whole", config)
    cut_and_resume(lab, config, at_step=3 * STEPS_PER_EPOCH + 7)
    assert whole.stopped_early
    assert whole.num_epochs == 5
    lab.assert_equal("whole", "resumed")


def test_tracker_gets_every_line_once(lab: Lab) -> None:
    config = fake_config(checkpoint={"every_n_steps": 3})
    whole = ListTracker()
    lab.fit("whole", config, tracker=whole)
    resumed = cut_and_resume(lab, config, at_step=17)

    def numbers(tracker: ListTracker) -> list[tuple[int | None, list[str]]]:
        return [(step, sorted(values)) for step, values in tracker.metrics]

    assert numbers(resumed) == numbers(whole)
    assert len(whole.metrics) == 3 * STEPS_PER_EPOCH + 3


KILLED_RUN = """
import os, signal, sys
from pathlib import Path
from lab.artifacts.rundir import RunDir
from lab.train.fit import fit
from tests.train.fake_task import FakeConfig, ListTracker
from tests.train.test_resume import CutTask
config = FakeConfig.model_validate_json(sys.argv[2])
task = CutTask(config, lambda: os.kill(os.getpid(), signal.SIGKILL), at_step=int(sys.argv[3]))
fit(task, config, RunDir(Path(sys.argv[1])), ListTracker())
"""


def test_kill_9_in_an_epoch_then_a_new_process_ends_bit_equal(lab: Lab, repo: Path) -> None:
    config = fake_config(train={"ema_decay": 0.9}, checkpoint={"every_n_steps": 4})
    lab.fit("whole", config)
    command = [sys.executable, "-c", KILLED_RUN, str(lab.dir("resumed").path), config.model_dump_json(), "19"]
    killed = subprocess.run(
        command, cwd=repo, env=os.environ | {"PYTHONPATH": str(repo)}, capture_output=True, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    state = json.loads((lab.dir("resumed").checkpoint / "state.json").read_text())["state"]
    assert (state["global_step"], state["epoch"]) == (16, 1)  # in the middle of the second epoch
    lab.fit("resumed", config, resume=True)
    lab.assert_equal("whole", "resumed")


def test_cut_twice_ends_bit_equal(lab: Lab) -> None:
    config = fake_config(checkpoint={"every_n_steps": 4})
    lab.fit("whole", config)
    with pytest.raises(CrashError):
        lab.fit("resumed", config, task=CutTask(config, crash, at_step=7))
    with pytest.raises(CrashError):
        lab.fit("resumed", config, task=CutTask(config, crash, at_step=13), resume=True)
    lab.fit("resumed", config, resume=True)
    lab.assert_equal("whole", "resumed")


def test_resume_of_a_finished_run_says_so_and_returns_its_result(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    config = fake_config()
    first = lab.fit("run", config)
    before = lab.dir("run").weights.stat().st_mtime_ns
    again = lab.fit("run", config, resume=True)
    assert again == first
    assert lab.dir("run").weights.stat().st_mtime_ns == before
    assert "already finished after 3 epochs" in capsys.readouterr().err


def test_resume_without_a_checkpoint_starts_and_says_so(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    config = fake_config()
    lab.fit("whole", config)
    result = lab.fit("resumed", config, resume=True)
    assert result.resumed_from_step == 0
    assert "training starts from the beginning" in capsys.readouterr().err
    lab.assert_equal("whole", "resumed")


def test_more_epochs_continue_a_finished_run(lab: Lab) -> None:
    short, long = fake_config(train={"epochs": 2}), fake_config(train={"epochs": 4})
    lab.fit("whole", long)
    lab.fit("resumed", short)
    result = lab.fit("resumed", long, resume=True)
    assert (result.num_epochs, result.resumed_from_step) == (4, 2 * STEPS_PER_EPOCH)
    assert lab.lines("whole") == lab.lines("resumed")
    assert all(
        torch.equal(a, b) for a, b in zip(lab.weights("whole").values(), lab.weights("resumed").values(), strict=True)
    )


def test_checkpoint_of_another_model_is_refused_by_name(lab: Lab) -> None:
    config = fake_config()
    lab.fit("run", config)
    with pytest.raises(ArtifactError) as caught:
        lab.fit("run", fake_config(width=6, optimizer={"learning_rate": 0.2}), resume=True)
    assert "width: 5 -> 6" in str(caught.value)
    assert "optimizer.learning_rate: 0.05 -> 0.2" in str(caught.value)


def test_finished_training_that_was_killed_before_its_weights_is_completed(lab: Lab) -> None:
    config = fake_config()
    lab.fit("whole", config)
    lab.fit("resumed", config)
    run = lab.dir("resumed")
    run.weights.unlink()
    (run.checkpoint.parent / "finished.json").unlink()
    result = lab.fit("resumed", config, resume=True)
    assert result.best_metric == pytest.approx(max(line["validation/accuracy"] for line in result.history))
    lab.assert_equal("whole", "resumed")
