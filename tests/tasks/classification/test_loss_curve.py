"""The real task through the lab, and the same model, data, seed and schedule in a plain PyTorch loop."""

from __future__ import annotations

from pathlib import Path

import yaml

from lab.config.load import build, parse_source
from lab.tasks.classification.config import ClassificationConfig
from lab.tasks.classification.learn import ClassificationTask
from tests.tiny import tiny_config, write_tiny_idx
from tests.train.test_plain_loop import assert_same_loss_curve


def test_loss_curve_equals_that_of_a_plain_loop(tmp_path: Path) -> None:
    write_tiny_idx(tmp_path / "data")
    raw = tiny_config(
        tmp_path / "data",
        augment={"level": "crop", "crop_padding": 1, "mixup_alpha": 0.2, "cutmix_alpha": 1.0, "mix_probability": 0.5},
        loss={"label_smoothing": 0.05},
        train={"epochs": 2, "batch_size": 16, "device": "cpu", "num_threads": 1, "log_every_n_steps": 1},
    )
    config = build(parse_source(yaml.safe_dump(raw), "tiny"), ClassificationConfig)
    losses = assert_same_loss_curve(ClassificationTask(config), config, tmp_path / "run")
    assert len(losses) == 2 * 12
    assert losses[-1] < losses[0]
