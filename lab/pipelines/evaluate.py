"""`lab evaluate`: the task's metrics of a run, an ONNX file or a bundle, on a split of the run's data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from lab.artifacts.manifest import Manifest
from lab.core.errors import ArtifactError
from lab.core.interfaces import Runner
from lab.core.progress import bar, say
from lab.pipelines.context import OpenRun, threads_or_all
from lab.pipelines.models import eager_model
from lab.runtime.models import open_model
from lab.tasks import DEPLOY, loop_of

Split = Literal["validation", "test"]


@dataclass(frozen=True)
class EvaluateReport:
    """Metrics of one model on one split."""

    model: str
    split: str
    num_samples: int
    metrics: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        return {"model": self.model, "split": self.split, "num_samples": self.num_samples, "metrics": self.metrics}


def final_split(task: Any) -> Split:
    """The split that final figures are taken on: test, or validation where there is no test split."""
    return "test" if task.has_split("test") else "validation"


def feeds(
    task: Any, deploy: ModuleType, split: Split, *, batch_size: int, limit: int | None = None
) -> Iterator[tuple[dict[str, np.ndarray], list[Any]]]:
    """Preprocessed inputs of a split with the samples they come from, `batch_size` of them at a time or as many as fit.

    This is the deployment path (numpy preprocessing from the manifest), not the training loader's.
    """
    dataset = task.eval_dataset(split)
    count = len(dataset) if limit is None else min(limit, len(dataset))
    batch_size = min(batch_size, deploy.inputs_per_call(task.preprocessing) or batch_size)
    for first in range(0, count, batch_size):
        indices = range(first, min(first + batch_size, count))
        samples = [dataset[index] for index in indices]
        yield deploy.preprocess([sample.input for sample in samples], task.preprocessing), samples


def score_runner(
    runner: Runner, task: Any, deploy: ModuleType, split: Split, *, batch_size: int = 64, limit: int | None = None
) -> tuple[dict[str, float], int]:
    """The task's metrics of any runner on a split, and the number of samples."""
    scorer, num_samples = deploy.scorer(task.labels, task.preprocessing, **task.score_options()), 0
    total = len(task.eval_dataset(split))
    total = total if limit is None else min(total, limit)
    with bar(f"evaluating {runner.name}", total) as advance:
        for feed, samples in feeds(task, deploy, split, batch_size=batch_size, limit=limit):
            scorer.update(runner.run(feed), samples)
            num_samples += len(samples)
            advance(len(samples))
    return scorer.compute(), num_samples


def evaluate_model(config: Any, task: Any, weights: Path) -> dict[str, float]:
    """Metrics of trained weights on the test split, named `test/...` (`validation/...` where there is none)."""
    from lab.train.weights import load_weights

    split = final_split(task)
    model = task.build_model(pretrained=False)
    load_weights(model, weights)
    say(f"evaluating on the {split} split ...")
    runner = eager_model(task, model, num_threads=threads_or_all(config.train.num_threads))
    batch_size = min(256, 2 * config.train.batch_size)  # what training had memory for, without its gradients
    scores, _ = score_runner(runner, task, DEPLOY[config.task], split, batch_size=batch_size)
    return {f"{split}/{name}": value for name, value in scores.items()}


def evaluate(spec: str, runs_dir: Path, *, split: Split | None, num_threads: int | None = None) -> EvaluateReport:
    """Evaluate a run (folder, name, "latest") or one of its bundles or its ONNX model (folder).

    Raises:
        ArtifactError: nothing there, or an artifact without a task.
    """
    artifact = Path(spec)
    manifest = Manifest.load(artifact) if (artifact / "manifest.json").exists() else None
    is_run = manifest is None or manifest.kind == "run"
    opened = OpenRun.find(spec if is_run else str(_run_of(artifact)), runs_dir)
    task, deploy = opened.learning_task(), opened.deploy
    chosen = split or final_split(task)
    runner = _runner(opened, artifact, manifest, threads_or_all(num_threads))
    try:
        metrics, num_samples = score_runner(runner, task, deploy, chosen)
    finally:
        runner.close()
    return EvaluateReport(str(artifact if not is_run else opened.dir.path), chosen, num_samples, metrics)


def _run_of(artifact: Path) -> Path:
    """The run folder an export or a bundle lies in."""
    for parent in artifact.resolve().parents:
        if (parent / "run.json").exists():
            return parent
    raise ArtifactError(
        f"{artifact} does not lie inside a run's folder, so its data is unknown",
        expected="runs/<task>/<name>/bundles/<target> or runs/<task>/<name>/export",
        hint="lab predict runs it on files of your own",
    )


def _runner(opened: OpenRun, artifact: Path, manifest: Manifest | None, num_threads: int) -> Runner:
    if manifest is None or manifest.kind == "run":
        return eager_model(opened.learning_task(), opened.build_model(), num_threads=num_threads)
    return open_model(artifact, loop_of, num_threads=num_threads)
