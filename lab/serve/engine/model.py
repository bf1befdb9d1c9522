"""A model opened for serving: its runner, and the numpy half of its task. One per executor thread."""

from __future__ import annotations

import inspect
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from lab.artifacts.manifest import Manifest
from lab.core.errors import DataError, LabError
from lab.core.interfaces import Arrays, Runner
from lab.core.signature import Signature
from lab.runtime.models import open_model
from lab.runtime.null_runner import NullRunner
from lab.runtime.pipeline import PipelineRunner
from lab.runtime.program import ProgramRunner
from lab.serve.config import FaultConfig, VariantConfig
from lab.serve.steps import pipeline_manifest
from lab.tasks import DEPLOY, loop_of

BATCH = "batch"


class FaultError(LabError):
    """A fault that the configuration asked for."""


@dataclass(frozen=True)
class Part:
    """One opened artifact: the model, or a step of a pipeline."""

    folder: Path
    manifest: Manifest
    runner: Runner


class ServedModel:
    """What an executor thread calls. Not thread-safe.

    Args:
        folder: of a bundle or an ONNX export.
        steps: the folders of a pipeline's models, instead of it.

    Raises:
        ConfigError: steps that do not fit together.
        ArtifactError, IntegrityError, IncompatibleError, MissingToolError: as `lab.runtime.models.open_model`.
    """

    def __init__(self, folder: Path, config: VariantConfig, steps: Sequence[Path] = ()) -> None:
        self.config = config
        self.parts = [self._open(one) for one in steps or (folder,)]
        self.manifest, self.runner = self.parts[0].manifest, self.parts[0].runner
        if steps:
            manifests = [part.manifest for part in self.parts]
            self.manifest = pipeline_manifest(manifests, config.wires)
            runners = [part.runner for part in self.parts]
            self.runner = PipelineRunner(runners, [manifest.name for manifest in manifests], config.wires)
        self.signature: Signature = self.runner.signature
        self._programs: dict[str, Runner] = {}

    def _open(self, folder: Path) -> Part:
        manifest = Manifest.load(folder)
        if self.config.engine == "zeros":
            return Part(folder, manifest, NullRunner(manifest.signature))
        return Part(folder, manifest, open_model(folder, loop_of, num_threads=self.config.runtime_threads))

    @cached_property
    def deploy(self) -> ModuleType | None:
        """The task's numpy half; None for a model of no task, which takes tensors only."""
        task: ModuleType | None = DEPLOY[self.manifest.task] if self.manifest.task else None
        return task

    @cached_property
    def batches(self) -> bool:
        """Whether inputs of several requests may be put together: everything has a batch dimension in front."""
        signatures = [self.signature, *(part.runner.signature for part in self.parts)]
        specs = [spec for signature in signatures for spec in (*signature.inputs, *signature.outputs)]
        return all(spec.shape and spec.shape[0] == BATCH for spec in specs) and not self.manifest.functions

    def run(self, feed: Mapping[str, np.ndarray], options: Mapping[str, Any] | None = None) -> Arrays:
        """Tensors in, tensors out. Raises DataError when they do not fit."""
        _inject(self.config.faults)
        return self._with(options).run(feed)

    def predict(self, inputs: Sequence[Any], options: Mapping[str, Any]) -> tuple[list[Any], Arrays, tuple[float, ...]]:
        """The task's inputs to its predictions.

        Returns the predictions, the raw outputs, and the seconds of preprocessing, execution and postprocessing.
        """
        if self.deploy is None:
            raise DataError("the model belongs to no task, so that it takes tensors only")
        began = time.perf_counter()
        feed = self.deploy.preprocess(inputs, self.manifest.preprocessing)
        prepared = time.perf_counter()
        outputs = self.run(feed, accepted(self.deploy.generate, options) if self.manifest.functions else None)
        ran = time.perf_counter()
        chosen = accepted(self.deploy.postprocess, options)
        found = self.deploy.postprocess(outputs, self.manifest.labels, inputs, self.manifest.preprocessing, **chosen)
        return found, outputs, (prepared - began, ran - prepared, time.perf_counter() - ran)

    def _with(self, options: Mapping[str, Any] | None) -> Runner:
        """The program with its loop's options, such as the number of samples of a forecast."""
        if not options or not isinstance(self.runner, ProgramRunner):
            return self.runner
        loop = loop_of(self.manifest, options)
        return self.runner if loop is None else ProgramRunner(self.signature, self.runner.functions, loop)

    def close(self) -> None:
        self.runner.close()


def accepted(function: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `options` that a function has a keyword for."""
    known = _keywords(function)
    return {name: value for name, value in options.items() if name in known}


@cache
def _keywords(function: Any) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def _inject(faults: FaultConfig) -> None:
    if faults.latency_ms:
        time.sleep(faults.latency_ms / 1e3)
    if faults.error_rate and random.random() < faults.error_rate:
        raise FaultError("a fault was asked for by the variant's configuration")
