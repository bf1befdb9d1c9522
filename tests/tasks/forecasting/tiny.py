"""A tiny data set of monthly waves with categories, a dynamic feature and gaps, and a configuration that learns it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lab.data.series.jsonl import write
from lab.data.series.series import Series
from lab.tasks.forecasting.scoring import ForecastSample

HORIZON, NUM_SERIES = 6, 12


def tiny_series(num_series: int = NUM_SERIES, seed: int = 0) -> list[Series]:
    """Years of 12 steps; the category says whether a wave rises, the dynamic feature when it is doubled."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(num_series):
        length = 60 + 3 * number
        steps = np.arange(length)
        promotion = (rng.random(length) < 0.1).astype(np.float32)
        wave = 10 * (number + 1) * (2 + np.sin(2 * np.pi * (steps + number) / 12) + (number % 2) * steps / length)
        target = wave * (1 + promotion) * rng.uniform(0.99, 1.01, length)
        target[rng.random(length) < 0.05] = np.nan
        start = np.datetime64("2015-01-01T00:00:00", "s")
        found.append(Series(f"s{number}", start, target, (number % 2,), (number / 12,), promotion[None]))
    return found


def write_tiny_series(folder: Path) -> Path:
    """`train.jsonl`, and `test.jsonl.gz` with the end of the same series."""
    series = tiny_series()
    write([one.before(len(one) - HORIZON) for one in series], folder / "train.jsonl")
    write(series, folder / "test.jsonl.gz")
    return folder


def tiny_config(folder: Path) -> dict[str, Any]:
    """Raw configuration of a run on `write_tiny_series(folder)`."""
    return {
        "task": "forecasting",
        "name": "tiny",
        "runs_dir": str(folder / "runs"),
        "data": {
            "train": str(folder / "train.jsonl"),
            "test": str(folder / "test.jsonl.gz"),
            "time_freq": "M",
            "windows_per_epoch": 48,
        },
        "model": {
            "prediction_length": HORIZON,
            "context_length": 8,
            "num_cells": 20,
            "dropout_rate": 0.0,
            "embedding_dimension": 3,
            "lags": [1, 2, 12],
            "scale_feature": True,
        },
        "metrics": {"num_eval_samples": 20, "ets_windows": 2},
        "optimizer": {"name": "adam", "learning_rate": 0.005, "weight_decay": 0.0},
        "train": {"epochs": 2, "batch_size": 8, "device": "cpu", "num_threads": 1, "log_every_n_steps": 2},
        "tracking": {"enabled": False},
    }


def perfect_samples(task: Any, samples: Sequence[ForecastSample]) -> dict[str, np.ndarray]:
    """Every sample path is the truth."""
    truth_BP = np.stack([sample.label.target_P for sample in samples])
    paths = np.repeat(np.nan_to_num(truth_BP)[:, None], task.options.num_samples, axis=1)
    return {"samples": paths.astype(np.float32)}
