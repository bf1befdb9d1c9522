"""Training throughput of `lab.train.fit` against a plain PyTorch loop: same task, model, data, seed and schedule.

    python benchmarks/train_throughput.py CONFIG.yaml [--steps 30] [--rounds 5] [key=value ...]

Contestants run in turn (A B C, A B C, ...), each `--rounds` times for `--steps` steps; a run's speed is the median over
its steps after warm-up, and what is compared is the median over rounds. "fit" and "plain" train alike, in the layout
that PyTorch has by default; "fit, as configured" uses what the configuration asks for (channels_last and so on).
Validation, checkpoints and loading the data set are not part of a step and are not timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lab.artifacts.files import write_json
from lab.artifacts.manifest import now
from lab.artifacts.rundir import RunDir
from lab.config.load import build, read_source
from lab.config.run import RunConfig
from lab.core.host import cpu_name, num_cores, versions
from lab.core.progress import set_quiet
from lab.tasks import CONFIGS, LEARN

RESULTS = Path(__file__).resolve().parent / "results"
WARMUP_STEPS = 5
Clock = Callable[[], float]
# "cpu" counts the processor time of this process: what to compare on a machine that others use too (with one thread).
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


class OneEpochTask:
    """A task cut to what a step needs: one validation batch, and a clock at every training step."""

    def __init__(self, task: Any, clock: Clock) -> None:
        self._task, self._clock = task, clock
        self.step_times_s: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def eval_loader(self, split: str) -> FirstBatch:
        return FirstBatch(self._task.eval_loader(split))

    def on_device(self, batch: Any, *, training: bool, seed: int) -> Any:
        if training:
            self.step_times_s.append(self._clock())
        return self._task.on_device(batch, training=training, seed=seed)


class FirstBatch:
    """The first batch of a loader."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Any]:
        yield next(iter(self._loader))


def images_per_s(times_s: list[float], batch_size: int) -> float:
    """From the moments at which steps began: median step after warm-up."""
    steps = [after - before for before, after in zip(times_s[WARMUP_STEPS:], times_s[WARMUP_STEPS + 1 :], strict=False)]
    return batch_size / statistics.median(steps)


def run_fit(task: Any, config: RunConfig, clock: Clock) -> float:
    from lab.train.fit import fit

    timed = OneEpochTask(task, clock)
    with tempfile.TemporaryDirectory() as folder:
        fit(timed, config, RunDir(Path(folder)), SilentTracker())  # type: ignore[arg-type]
    return images_per_s(timed.step_times_s, config.train.batch_size)


def run_plain(task: Any, config: RunConfig, clock: Clock) -> float:
    import torch

    from tests.train.plain_loop import plain_loop

    timed = OneEpochTask(task, clock)
    torch.set_num_threads(config.train.num_threads or num_cores())
    model = task.build_model()
    if config.train.channels_last:
        model = model.to(memory_format=torch.channels_last)
    for _ in plain_loop(timed, config, model):  # type: ignore[arg-type]
        pass
    return images_per_s(timed.step_times_s, config.train.batch_size)


class SilentTracker:
    """A tracker that keeps nothing."""

    run_id = ""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def measure(config: RunConfig, rounds: int, clock: Clock) -> dict[str, list[float]]:
    """Images per second of every contestant in every round."""
    plain_layout = config.model_copy(update={"train": config.train.model_copy(update={"channels_last": False})})
    tasks = {id(c): LEARN[c.task](c) for c in (config, plain_layout)}
    contestants: dict[str, Callable[[], float]] = {
        "plain": lambda: run_plain(tasks[id(plain_layout)], plain_layout, clock),
        "fit": lambda: run_fit(tasks[id(plain_layout)], plain_layout, clock),
    }
    if config.train.channels_last:
        contestants["plain, channels_last"] = lambda: run_plain(tasks[id(config)], config, clock)
    contestants["fit, as configured"] = lambda: run_fit(tasks[id(config)], config, clock)
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            speeds[name].append(run())
    return speeds


def report(speeds: dict[str, list[float]], config: RunConfig, steps: int) -> dict[str, Any]:
    """Print the table and return what is stored."""
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    print(f"{'':24}{'images/s':>10}{'range':>18}{'x plain':>9}")
    for name, values in speeds.items():
        spread = f"{min(values):.0f}..{max(values):.0f}"
        print(f"{name:24}{medians[name]:10.0f}{spread:>18}{medians[name] / medians['plain']:9.3f}")
    pairs = [ours / plain for ours, plain in zip(speeds["fit"], speeds["plain"], strict=True)]
    best = max(speeds["fit"]) / max(speeds["plain"])
    print(f"fit / plain: median of {len(pairs)} paired rounds {statistics.median(pairs):.3f}, best rounds {best:.3f}")
    return {
        "created": now(),
        "config": config.model_dump(mode="json", exclude={"runs_dir"}),
        "cpu": cpu_name(),
        "num_threads": config.train.num_threads or num_cores(),
        "steps_per_round": steps,
        "images_per_s": speeds,
        "median_images_per_s": medians,
        "ratio_to_plain": {name: value / medians["plain"] for name, value in medians.items()},
        "median_paired_ratio": statistics.median(pairs),
        "best_round_ratio": best,
        "versions": versions(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--out", type=Path, default=RESULTS / "train_throughput.json")
    arguments = parser.parse_args()
    short = [f"train.limit_train_batches={arguments.steps}", "train.epochs=1", "train.device=cpu"]
    source = read_source(arguments.config, [*arguments.overrides, *short])
    config: RunConfig = build(source, CONFIGS[source.data["task"]])
    set_quiet(True)
    result = report(measure(config, arguments.rounds, CLOCKS[arguments.clock]), config, arguments.steps)
    result["clock"] = arguments.clock
    write_json(arguments.out, result)
    print(f"written to {arguments.out}")
    print(json.dumps(result["ratio_to_plain"]))


if __name__ == "__main__":
    main()
