"""Our side of `forecasting_quality.py`: python forecasting_ours.py JOB.json, as `forecasting_peer.py` is GluonTS's."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import yaml

from lab.artifacts.files import read_json
from lab.config.load import build, parse_source
from lab.pipelines import train
from lab.pipelines.compile import compile_run
from lab.pipelines.compile_source import CompileOptions
from lab.pipelines.context import OpenRun
from lab.pipelines.evaluate import feeds
from lab.pipelines.models import eager_model
from lab.runtime.models import open_model
from lab.tasks import loop_of
from lab.tasks.forecasting import deploy
from lab.tasks.forecasting.config import ForecastingConfig

STEPS_BETWEEN_VALIDATIONS = 250
BATCH_SIZE = 8
"""Series per call: with 100 paths each, one step's gates stay in the second-level cache."""


def config_of(job: dict[str, Any]) -> dict[str, Any]:
    """The job as a raw configuration of `lab train`."""
    num_epochs = max(1, job["num_steps"] // STEPS_BETWEEN_VALIDATIONS)
    return {
        "task": "forecasting",
        "name": "run",
        "seed": job["seed"],
        "runs_dir": job["folder"],
        "data": {
            "dataset": job["dataset"],
            "hold_out": False,
            "windows_per_epoch": job["num_steps"] * job["batch_size"] // num_epochs,
        },
        "model": {name: job[name] for name in ("context_length", "num_layers", "num_cells", "dropout_rate")},
        "backtest": {"max_validation_windows": 50},
        "metrics": {"num_eval_samples": job["num_samples"], "ets_windows": 0},
        "optimizer": {"name": "adam", "learning_rate": job["learning_rate"], "weight_decay": job["weight_decay"]},
        "schedule": {"name": "cosine"},
        "train": {
            "device": "cpu",
            "epochs": num_epochs,
            "batch_size": job["batch_size"],
            "gradient_clip_norm": job["gradient_clip_norm"],
            "ema_decay": 0.99,
            "num_threads": job["num_threads"],
            "log_every_n_steps": 10,
        },
        "tracking": {"enabled": False},
    }


def main(path: Path) -> None:
    """Train as the job says; then sample paths of all series, or the compiled bundle's times."""
    job = read_json(path)
    config = build(parse_source(yaml.safe_dump(config_of(job)), str(path)), ForecastingConfig)
    began = time.perf_counter()
    report = train.start(config)
    result: dict[str, Any] = {"train_s": time.perf_counter() - began, "samples_per_s": report.images_per_s}
    opened = OpenRun.find(str(report.run.path), Path(job["folder"]))
    if job["samples"]:
        np.savez(job["samples"], samples=eager_samples(opened, job["num_threads"]))
    if job["predict_repeats"]:
        result |= bundle_times(opened, job)
    print(json.dumps(result))


def eager_samples(opened: Any, num_threads: int) -> np.ndarray:
    task = opened.learning_task()
    runner = eager_model(task, opened.build_model(), num_threads=num_threads)
    parts = [runner.run(feed)["samples"] for feed, _ in feeds(task, opened.deploy, "test", batch_size=64)]
    return np.concatenate(parts)


def bundle_times(opened: Any, job: dict[str, Any]) -> dict[str, float]:
    """Median seconds from series to sample paths: one series, and all of them."""
    options = CompileOptions(batch_sizes=(1, BATCH_SIZE), num_threads=job["num_threads"])
    compile_run(opened, "x86", options)
    task, size = opened.learning_task(), BATCH_SIZE
    runner = open_model(opened.dir.path / "bundles" / "x86", loop_of, num_threads=job["num_threads"])
    dataset = task.eval_dataset("test")
    series = [dataset[index].input for index in range(len(dataset))]

    def forecast(batch_of: Sequence[Any]) -> float:
        began = time.perf_counter()
        for first in range(0, len(batch_of), size):
            batch = batch_of[first : first + size]
            outputs = runner.run(deploy.preprocess(batch, task.preprocessing))
            deploy.postprocess(outputs, (), batch, task.preprocessing)
        return time.perf_counter() - began

    forecast(series[:1])
    repeats = job["predict_repeats"]
    return {
        "predict_one_s": statistics.median(forecast(series[:1]) for _ in range(5 * repeats)),
        "predict_all_s": statistics.median(forecast(series) for _ in range(repeats)),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
