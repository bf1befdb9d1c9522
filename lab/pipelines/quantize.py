"""The 8-bit copy of a run's model that `lab compile --precision int8` compiles: calibrated, scored, gated.

Calibration sees the validation split, the score is taken on the final one: how much of the task's metric the 8 bits
cost is measured, and more than the configuration allows fails the compile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lab.artifacts.files import atomic_dir, recover_dir, sha256_file, write_text
from lab.artifacts.manifest import MAIN, Manifest
from lab.core.errors import ConfigError, ParityError
from lab.core.host import num_cores, versions
from lab.core.interfaces import Runner
from lab.core.progress import bar, say
from lab.core.timing import Stages
from lab.pipelines.compile_source import Source
from lab.pipelines.context import OpenRun, existing_artifact
from lab.pipelines.evaluate import final_split, score_runner

MODEL = "model.onnx"
FLOAT, INT8 = "onnxruntime", "onnxruntime-int8"


def quantized(opened: OpenRun, source: Source) -> Source:
    """`source` with its model quantised; kept in `<run>/quantized`, and made again only when something changed.

    The manifest's metrics hold both models' scores, by engine.

    Raises:
        ConfigError: the model is a program, whose functions are not quantised.
        UnsupportedError: the quantiser refuses the model.
        ParityError: the metric falls by more than `quantize.max_loss`; nothing is kept.
    """
    if source.functions:
        raise ConfigError(
            "a model that is a loop of functions cannot be quantised", got=opened.config.task,
            expected="classification, detection or segmentation", hint="compile it without --precision int8",
        )  # fmt: skip
    folder = opened.dir.quantized
    recover_dir(folder)
    parents = {MODEL: sha256_file(source.files[MAIN])}
    options = opened.config.quantize.model_dump()
    existing = existing_artifact(folder, "quantize")
    if existing and (existing.parents, existing.options, existing.versions) == (parents, options, versions()):
        say(f"quantize: unchanged since {existing.created}, skipped")
        return replace(source, files={MAIN: folder / MODEL}, manifest=existing)
    manifest = _quantize(opened, source, folder, parents, options)
    return replace(source, files={MAIN: folder / MODEL}, manifest=manifest)


def _quantize(
    opened: OpenRun, source: Source, folder: Path, parents: dict[str, str], options: dict[str, Any]
) -> Manifest:
    from lab.export.quantize import quantize_onnx

    assert source.manifest is not None
    settings, stages = opened.config.quantize, Stages()
    with atomic_dir(folder) as temporary:
        say(f"quantizing to 8 bits, calibrated on {settings.samples} validation samples ...")
        with stages.stage("quantize"):
            quantize_onnx(
                source.files[MAIN], temporary / MODEL, _calibration(opened, settings.samples), method=settings.method
            )
        with stages.stage("evaluate"):
            scores = {
                FLOAT: _score(opened, source.files[MAIN], source.manifest),
                INT8: _score(opened, temporary / MODEL, source.manifest),
            }
        _require(opened, scores)
        write_text(temporary / "labels.txt", "".join(f"{label}\n" for label in source.manifest.labels))
        manifest = replace(
            source.manifest,
            parents=parents,
            options=options,
            versions=versions(),
            durations_s=stages.durations_s,
            metrics=source.manifest.metrics | scores,
        ).with_files(temporary, [MODEL, "labels.txt"])
        manifest.save(temporary)
    return Manifest.load(folder)


def _calibration(opened: OpenRun, num_samples: int) -> Iterator[dict[str, np.ndarray]]:
    """One sample at a time of the validation split, evenly spread over it."""
    task = opened.learning_task()
    if not task.has_split("validation"):
        raise ConfigError("calibration needs a validation split, which this run's data does not have")
    dataset = task.eval_dataset("validation")
    count = min(num_samples, len(dataset))
    with bar("calibrating", count) as advance:
        for index in np.linspace(0, len(dataset) - 1, count).astype(int):
            yield opened.deploy.preprocess([dataset[int(index)].input], task.preprocessing)
            advance(1)


def _score(opened: OpenRun, path: Path, manifest: Manifest) -> dict[str, float]:
    from lab.runtime.onnx_runner import OnnxRunner

    task = opened.learning_task()
    runner: Runner = OnnxRunner(path, num_threads=num_cores(), signature=manifest.signature)
    try:
        scores, _ = score_runner(runner, task, opened.deploy, final_split(task))
    finally:
        runner.close()
    return scores


def _require(opened: OpenRun, scores: dict[str, dict[str, float]]) -> None:
    """Print the metrics before and after; raises ParityError where the monitored one lost too much."""
    task, limit = opened.learning_task(), opened.config.quantize.max_loss
    for name, before in scores[FLOAT].items():
        say(f"  {name}: {before:.4f} in 32 bits, {scores[INT8][name]:.4f} in 8 bits")
    name = task.monitor if task.monitor in scores[FLOAT] else next(iter(scores[FLOAT]))
    loss = scores[FLOAT][name] - scores[INT8][name]
    loss = loss if task.monitor_mode == "max" else -loss
    if not loss <= limit:
        raise ParityError(
            f"8 bits cost too much of the model's {name}",
            got=f"{scores[FLOAT][name]:.4f} in 32 bits, {scores[INT8][name]:.4f} in 8 bits",
            expected=f"a loss of at most {limit:g} (quantize.max_loss in the configuration)",
            hint="try quantize.method=percentile or entropy, or more quantize.samples",
        )
