"""GluonTS's side of `forecasting_quality.py`; runs in GluonTS's own environment and knows nothing of the lab.

Usage: python forecasting_peer.py JOB.json. The job names a file of series, the settings, and what to write:
sample paths of all series, training steps per second, seconds per prediction.
"""

from __future__ import annotations

import json
import logging
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

warnings.filterwarnings("ignore")

import lightning.pytorch as pl  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from gluonts.dataset.common import ListDataset  # noqa: E402
from gluonts.torch.distributions import StudentTOutput  # noqa: E402
from gluonts.torch.model.deepar import DeepAREstimator  # noqa: E402

WARM_UP_STEPS = 20
WINDOW_STEPS = 10
SHUFFLE_BUFFER = 1024


class StepTimes(pl.Callback):
    """When each optimizer step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.ends.append(time.perf_counter())

    def samples_per_s(self, batch_size: int) -> float:
        """Median over windows of steps after warm-up, as the lab's recorder measures it."""
        windows_s = np.diff(self.ends[WARM_UP_STEPS::WINDOW_STEPS])
        return float(np.median(batch_size * WINDOW_STEPS / windows_s))


def dataset(rows: list[dict[str, Any]], freq: str) -> ListDataset:
    """Rows of {"row", "start", "target"} in GluonTS's own container."""
    return ListDataset([{"start": pd.Period(r["start"], freq), "target": r["target"]} for r in rows], freq=freq)


def train(job: dict[str, Any], data: ListDataset, times: StepTimes) -> Any:
    """The estimator as configured by the job, everything else at its defaults."""
    pl.seed_everything(job["seed"])
    num_epochs, rest = divmod(job["num_steps"], job["steps_per_epoch"])
    assert rest == 0
    estimator = DeepAREstimator(
        freq=job["freq"],
        prediction_length=job["prediction_length"],
        context_length=job["context_length"],
        num_layers=job["num_layers"],
        hidden_size=job["num_cells"],
        lr=job["learning_rate"],
        weight_decay=job["weight_decay"],
        dropout_rate=job["dropout_rate"],
        distr_output=StudentTOutput(),
        scaling=True,
        num_parallel_samples=job["num_samples"],
        batch_size=job["batch_size"],
        num_batches_per_epoch=job["steps_per_epoch"],
        trainer_kwargs={
            "max_epochs": num_epochs,
            "gradient_clip_val": job["gradient_clip_norm"],
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [times],
            "default_root_dir": job["folder"],
        },
    )
    return estimator.train(data, shuffle_buffer_length=SHUFFLE_BUFFER)


def timed(predictor: Any, data: ListDataset, repeats: int) -> float:
    """Median seconds of forecasting a whole data set."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        list(predictor.predict(data))
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def main(path: str) -> None:
    job = json.loads(Path(path).read_text())
    for name in ("lightning", "lightning.pytorch", "gluonts"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(job["num_threads"])
    rows = json.loads(Path(job["series"]).read_text())
    data, times = dataset(rows, job["freq"]), StepTimes()
    began = time.perf_counter()
    predictor = train(job, data, times)
    result: dict[str, Any] = {"train_s": time.perf_counter() - began}
    result["samples_per_s"] = times.samples_per_s(job["batch_size"])
    if job["samples"]:
        torch.manual_seed(job["seed"])
        np.random.seed(job["seed"])
        forecasts = list(predictor.predict(data))
        samples = np.stack([one.samples for one in forecasts]).astype(np.float32)
        np.savez(job["samples"], samples=samples[np.argsort([row["row"] for row in rows])])
    if job["predict_repeats"]:
        one = dataset(rows[:1], job["freq"])
        timed(predictor, one, 1)
        result["predict_one_s"] = timed(predictor, one, 5 * job["predict_repeats"])
        result["predict_all_s"] = timed(predictor, data, job["predict_repeats"])
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1])
