"""Our DeepAR trained by our pipeline against GluonTS's, and our compiled bundle against GluonTS's predictor.

    python benchmarks/forecasting_quality.py [--datasets NAME ...] [--seeds 0 1 2] [--steps 2500] [--only quality|speed]

Both see everything before the test part (the last prediction_length values of every series; no validation part is held
out), with the same lags, calendar and age features, logarithm of the scale, context, LSTM, dropout, Student-t
likelihood, mean scaling, batch size, learning rate at the start, gradient clipping, number of gradient steps and of
sample paths; each is seeded. What is each side's own: GluonTS keeps the learning rate until the loss stalls and the
weights of the epoch with the lowest training loss; ours falls along a cosine and averages the weights. GluonTS visits
series in order, so it gets them shuffled, through a buffer. One scorer for both (`lab.tasks.forecasting.scoring`,
checked against GluonTS's Evaluator in the tests), and the seasonal naive forecast beside them.

Speeds are measured in turn on the same threads, and told as ratios of medians. GluonTS runs in an environment of its
own (build/peers/gluonts, made when needed), which sees this one's PyTorch. Runs that are there already (below
build/forecasting) are not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from lab.artifacts.files import read_json, write_json, write_text
from lab.core.host import versions
from lab.data.series.packaged import known, open_known
from lab.tasks.forecasting.baselines import seasonal_error, seasonal_naive
from lab.tasks.forecasting.scoring import figures, window_sums

REPO = Path(__file__).resolve().parents[1]
DATASETS = ("tourism-monthly", "tourism-quarterly", "m3-monthly", "simbench-hourly")
LEVELS = tuple(level / 10 for level in range(1, 10))
FIGURES = ("mean_wql", "crps", "mase", "nd", "coverage_80")
GLUONTS = "gluonts[torch]==0.17.0"
PEER = REPO / "build" / "peers" / "gluonts"
WORK = REPO / "build" / "forecasting"
RESULTS = REPO / "benchmarks" / "results" / "forecasting_quality"
STEPS_PER_EPOCH = 50
SPEED_STEPS = 200
SETTINGS: dict[str, Any] = {
    "num_layers": 2, "num_cells": 40, "dropout_rate": 0.1, "learning_rate": 1e-3, "weight_decay": 1e-8,
    "batch_size": 32, "gradient_clip_norm": 10.0, "num_samples": 100,
}  # fmt: skip


# ---- the two sides ---------------------------------------------------------------------------------------------------


def peer_python() -> Path:
    """The interpreter of GluonTS's environment, which is made first where there is none."""
    python = PEER / "bin" / "python"
    probe = [str(python), "-c", "import gluonts"]
    if python.exists() and subprocess.run(probe, capture_output=True, check=False).returncode == 0:
        return python
    print(f"== installing {GLUONTS} into {PEER}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(PEER)], check=True)
    site = next((PEER / "lib").glob("python*/site-packages"))
    here = [path for path in sys.path if path.endswith("site-packages")]
    (site / "lab_environment.pth").write_text("\n".join(here) + "\n")
    # GluonTS needs an older pandas than MLflow brings; all else stays at our versions.
    lines = (line for line in (REPO / "constraints.txt").read_text().splitlines() if not line.startswith("pandas=="))
    constraints = PEER / "constraints.txt"
    constraints.write_text("\n".join(lines) + "\n")
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "-c", str(constraints), GLUONTS], check=True)
    return python


def job_of(name: str, seed: int, num_steps: int, num_threads: int, **others: Any) -> dict[str, Any]:
    """What a worker of either side is told."""
    fixed = known(name)
    return {
        "dataset": name,
        "seed": seed,
        "freq": {"H": "h"}.get(fixed.frequency, fixed.frequency),
        "prediction_length": fixed.prediction_length,
        "context_length": fixed.prediction_length,
        "num_steps": num_steps,
        "steps_per_epoch": STEPS_PER_EPOCH,
        "num_threads": num_threads,
        "series": str(series_file(name)),
        "samples": None,
        "predict_repeats": 0,
        **SETTINGS,
        **others,
    }


def series_file(name: str) -> Path:
    """The training part as JSON, for the side that does not know our readers; in random order, as GluonTS batches
    neighbours together and the competitions list similar series side by side."""
    path = WORK / f"{name}.json"
    if not path.exists():
        horizon, series = known(name).prediction_length, open_known(name)
        rows = [
            {"row": row, "start": str(one.start), "target": one.target_T[: len(one) - horizon].tolist()}
            for row, one in enumerate(series)
        ]
        order = np.random.default_rng(0).permutation(len(rows))
        write_json(path, [rows[index] for index in order])
    return path


def run_worker(side: str, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run one side's job in a process of its own; what it measured."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "job.json", job | {"folder": str(folder)})
    python, script = (sys.executable, "ours") if side == "ours" else (str(peer_python()), "peer")
    command = [python, str(REPO / "benchmarks" / f"forecasting_{script}.py"), str(folder / "job.json")]
    threads = str(job["num_threads"])
    environment = os.environ | {"OMP_NUM_THREADS": threads, "TVM_NUM_THREADS": threads}
    with (folder / "log.txt").open("w") as log:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{side} failed on {job['dataset']}: see {folder / 'log.txt'}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


# ---- quality ---------------------------------------------------------------------------------------------------------


def quality(names: Sequence[str], seeds: Sequence[int], num_steps: int, num_threads: int) -> None:
    """Run what is missing; samples go to build/forecasting/<steps>/<dataset>/<side>-<seed>.npz."""
    for seed in seeds:
        for name in names:
            for side in ("ours", "gluonts"):
                folder = WORK / str(num_steps) / name
                samples = folder / f"{side}-{seed}.npz"
                if samples.exists():
                    continue
                print(f"== {name}, seed {seed}: {side}, {num_steps} steps", flush=True)
                part = folder / f"{side}-{seed}.part.npz"
                run_worker(
                    side, job_of(name, seed, num_steps, num_threads, samples=str(part)), folder / f"{side}-{seed}"
                )
                part.replace(samples)


def scores_of(name: str, samples_BSP: np.ndarray) -> dict[str, float]:
    fixed, series = known(name), open_known(name)
    horizon = fixed.prediction_length
    target_BP = np.stack([one.target_T[-horizon:] for one in series])
    error_B = np.asarray([seasonal_error(one.target_T[:-horizon], fixed.season_length) for one in series])
    found = figures(window_sums(samples_BSP, target_BP, error_B, LEVELS), LEVELS)
    return {key: found[key] for key in FIGURES}


def naive_scores(name: str) -> dict[str, float]:
    fixed = known(name)
    horizon, season = fixed.prediction_length, fixed.season_length
    points = np.stack([seasonal_naive(one.target_T[:-horizon], horizon, season) for one in open_known(name)])
    found = scores_of(name, points[:, None])
    return {key: found[key] for key in ("mean_wql", "mase", "nd")}


def gather(names: Sequence[str], num_steps: int) -> dict[str, Any]:
    """Of the data sets with runs: figures, means and deviations over seeds, the ratio of mean quantile losses."""
    found: dict[str, Any] = {}
    for name in names:
        runs: dict[str, dict[str, dict[str, float]]] = {"ours": {}, "gluonts": {}}
        for path in sorted((WORK / str(num_steps) / name).glob("*-[0-9]*.npz")):
            side, _, seed = path.stem.partition("-")
            if not seed.endswith(".part"):
                runs[side][seed] = scores_of(name, np.load(path)["samples"])
        entry: dict[str, Any] = {"seasonal_naive": naive_scores(name), "runs": runs}
        for side, by_seed in runs.items():
            if by_seed:
                entry[side] = {key: spread([one[key] for one in by_seed.values()]) for key in FIGURES}
        if runs["ours"] and runs["gluonts"]:
            entry["wql_ratio"] = entry["ours"]["mean_wql"]["mean"] / entry["gluonts"]["mean_wql"]["mean"]
        if any(runs.values()):
            found[name] = entry
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else 0.0,
        "runs": len(values),
    }


# ---- speed -----------------------------------------------------------------------------------------------------------


def speed(names: Sequence[str], repeats: int, num_threads: int) -> dict[str, Any]:
    """Training and prediction of both sides in turn; medians, and their ratios (above 1: ours is faster)."""
    found: dict[str, Any] = {}
    for name in names:
        taken: dict[str, list[dict[str, float]]] = {"ours": [], "gluonts": []}
        for number in range(repeats):
            for side, measured in taken.items():
                print(f"== {name}: speed of {side}, {number + 1} of {repeats}", flush=True)
                job = job_of(name, number, SPEED_STEPS, num_threads, predict_repeats=3)
                measured.append(run_worker(side, job, WORK / "speed" / name / f"{side}-{number}-{time.time_ns()}"))
        medians = {
            side: {key: statistics.median(one[key] for one in measured) for key in measured[0]}
            for side, measured in taken.items()
        }
        ours, theirs = medians["ours"], medians["gluonts"]
        found[name] = {
            **medians,
            "training_ratio": ours["samples_per_s"] / theirs["samples_per_s"],
            "predict_one_ratio": theirs["predict_one_s"] / ours["predict_one_s"],
            "predict_all_ratio": theirs["predict_all_s"] / ours["predict_all_s"],
            "threads": num_threads,
            "repeats": repeats,
        }
    return found


# ---- tables ----------------------------------------------------------------------------------------------------------


def table(results: dict[str, Any]) -> str:
    """Both tables as Markdown."""
    lines = [
        f"Mean weighted quantile loss, {results['steps']:,} gradient steps; mean and standard deviation over seeds.",
        "",
        "| data set | ours | GluonTS | ratio | MASE ours | MASE GluonTS | coverage of 80 %: ours, GluonTS |"
        " seasonal naive: loss, MASE |",
        "|---|---|---|---|---|---|---|---|",
    ]
    ratios = []
    for name, entry in ((name, entry) for name, entry in results["quality"].items() if "wql_ratio" in entry):
        ratios.append(entry["wql_ratio"])
        ours, theirs, naive = entry["ours"], entry["gluonts"], entry["seasonal_naive"]
        cells = [
            *(
                f"{one['mean_wql']['mean']:.4f} ± {one['mean_wql']['std']:.4f} ({one['mean_wql']['runs']})"
                for one in (ours, theirs)
            ),
            f"{entry['wql_ratio']:.3f}",
            f"{ours['mase']['mean']:.3f}",
            f"{theirs['mase']['mean']:.3f}",
            f"{ours['coverage_80']['mean']:.3f}, {theirs['coverage_80']['mean']:.3f}",
            f"{naive['mean_wql']:.4f}, {naive['mase']:.3f}",
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    if ratios:
        lines += [
            "",
            f"Geometric mean of the ratios over {len(ratios)} data sets: {statistics.geometric_mean(ratios):.3f}",
        ]
    if results.get("speed"):
        lines += [
            "",
            "| data set | training samples/s: ours, GluonTS | ratio | one series: ours, GluonTS | ratio |"
            " all series: ours, GluonTS | ratio |",
            "|---|---|---|---|---|---|---|",
        ]
    for name, entry in results.get("speed", {}).items():
        ours, theirs = entry["ours"], entry["gluonts"]
        lines.append(
            f"| {name} | {ours['samples_per_s']:.0f}, {theirs['samples_per_s']:.0f} | {entry['training_ratio']:.2f} | "
            f"{1e3 * ours['predict_one_s']:.1f} ms, {1e3 * theirs['predict_one_s']:.1f} ms | "
            f"{entry['predict_one_ratio']:.1f} | {ours['predict_all_s']:.2f} s, {theirs['predict_all_s']:.2f} s | "
            f"{entry['predict_all_ratio']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS), choices=DATASETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=("quality", "speed", "report"))
    options = parser.parse_args()
    if options.steps % 250:
        parser.error("--steps must be a multiple of 250")
    path = RESULTS.with_suffix(".json")
    results = read_json(path) if path.exists() else {}
    if options.only in (None, "quality"):
        quality(options.datasets, options.seeds, options.steps, options.threads)
    if options.only in (None, "speed"):
        measured = speed(options.datasets, options.repeats, options.threads)
        results["speed"] = results.get("speed", {}) | measured
    known = results.get("quality", {}) if results.get("steps") == options.steps else {}  # their runs may be elsewhere
    quality_of = known | gather(DATASETS, options.steps)
    results |= {"steps": options.steps, "quality": quality_of, "versions": versions()}
    write_json(path, results)
    write_text(RESULTS.with_suffix(".md"), table(results))
    print(table(results))


if __name__ == "__main__":
    main()
