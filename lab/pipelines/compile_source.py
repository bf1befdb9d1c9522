"""What `lab compile` starts from: the ONNX files, what is known about them, and what the caller chose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lab.artifacts.golden import Golden
from lab.artifacts.manifest import MAIN, Manifest
from lab.core.host import num_cores
from lab.core.interfaces import Runner
from lab.core.signature import Signature
from lab.pipelines.context import OpenRun, existing_artifact
from lab.pipelines.evaluate import feeds, final_split
from lab.pipelines.parity import Batch, Judge, judge_of
from lab.runtime import models
from lab.tasks import DEPLOY, loop_of

if TYPE_CHECKING:
    from lab.compile.targets import Target
    from lab.compile.tuning.choices import Identity
    from lab.compile.tuning.decisions import Choice
    from lab.compile.tuning.records import Records

BATCH = "batch"
PARITY_SAMPLES = {"x86": 10_000, "cuda": 10_000, "arm": 64}  # ARM is emulated here, so fewer
PROGRAM_SAMPLES = {"x86": 256, "cuda": 256, "arm": 2}  # each is a loop of many calls
RANDOM_SAMPLES = 8


@dataclass(frozen=True)
class CompileOptions:
    """What the caller chooses; part of the manifest, and of the decision whether anything changed."""

    batch_sizes: tuple[int, ...] = (1,)
    input_shapes: Mapping[str, Sequence[int]] | None = None
    num_samples: int | None = None
    tolerance: float | None = None
    dump_dir: Path | None = None
    force: bool = False
    precision: str = "float32"
    partial: bool = False
    """Leave what cannot be compiled to ONNX Runtime."""
    num_threads: int | None = None
    """Threads that schedules and records are for; None is what the target assumes."""
    records: Records | None = None
    """Of tuning, for the target; None is to look for them."""
    records_path: Path | None = None
    use_records: bool = True
    report: bool = False
    """Time every kernel and write the page; what was compiled is the same, so it is not recorded."""

    def recorded(self) -> dict[str, Any]:
        shapes = {name: list(shape) for name, shape in (self.input_shapes or {}).items()}
        tuning = {"tuning_records": self.records.fingerprint} if self.records and self.records.fingerprint else {}
        partial = {"partial": True} if self.partial else {}
        return {"batch_sizes": list(self.batch_sizes), "input_shapes": shapes} | tuning | partial

    def with_records(self, target: Target) -> CompileOptions:
        """These options with the tuning records of the target's machine, or of all its levels.

        Raises:
            ArtifactError: a file of records is missing or broken.
        """
        from lab.compile.tuning.records import MachineKey, Records, record_files

        if self.records is not None:
            return self
        files = record_files(self.records_path) if self.use_records else []
        machines = {MachineKey.of(level) for level in target.levels or (target,)}
        return replace(self, records=Records.load(files, machines))

    def choices(self, target: Target) -> Mapping[Identity, Choice]:
        """What the records say for one machine: the target, or a level of it."""
        from lab.compile.tuning.records import MachineKey

        return self.records.choices(MachineKey.of(target)) if self.records else {}


@dataclass(frozen=True)
class Source:
    """The ONNX files to compile, by function, and what is known about them."""

    files: Mapping[str, Path]
    manifest: Manifest | None
    opened: OpenRun | None

    @property
    def folder(self) -> Path:
        return next(iter(self.files.values())).parent

    @property
    def name(self) -> str:
        return self.manifest.name if self.manifest else next(iter(self.files.values())).stem

    @property
    def functions(self) -> Mapping[str, Signature]:
        """Those of a program."""
        return self.manifest.functions if self.manifest else {}

    def open_dimensions(self, function: str) -> list[str]:
        """Names of a function's dimensions, besides the batch, that stay open."""
        signature = self.functions.get(function)
        return [symbol for symbol in signature.symbols() if symbol != BATCH] if signature else []

    def batch_sizes(self, function: str, wanted: Sequence[int]) -> list[int]:
        """The rows of a function for so many samples: a beam or sampled paths make several of one."""
        if function == MAIN or self.manifest is None or self.manifest.task is None:
            return list(wanted)
        rows = DEPLOY[self.manifest.task].rows_per_input(self.manifest.preprocessing)[function]
        return [size * rows for size in wanted]

    def batches(self, signature: Signature, options: CompileOptions, kind: str) -> Iterator[Batch]:
        """What the parity ladder climbs on: the run's evaluation split, or random arrays for a file alone."""
        if self.opened is None:
            for size in options.batch_sizes:  # each has a library of its own
                for seed in range(options.num_samples or RANDOM_SAMPLES):
                    yield signature.example_inputs({BATCH: size}, seed=seed), None
            return
        task = self.opened.learning_task()
        limit = options.num_samples or (PROGRAM_SAMPLES if self.functions else PARITY_SAMPLES)[kind]
        batch_size = min(64, 2 * self.opened.config.train.batch_size)
        yield from feeds(task, self.opened.deploy, final_split(task), batch_size=batch_size, limit=limit)

    def reference(self, manifest: Manifest) -> Runner:
        """ONNX Runtime on the files that were compiled; `manifest` is the bundle's."""
        if self.functions:
            return models.onnx_model(self.folder, manifest, loop_of(manifest), num_threads=num_cores())
        from lab.runtime.onnx_runner import OnnxRunner

        return OnnxRunner(self.files[MAIN], num_threads=num_cores(), signature=manifest.signature)

    def golden(self, manifest: Manifest, options: CompileOptions, target: Target) -> Golden:
        """A batch of the smallest compiled size with ONNX Runtime's outputs, which an endpoint checks first."""
        feed, _ = next(self.batches(manifest.signature, options, target.kind))
        with_batch = {spec.name for spec in manifest.signature.inputs if BATCH in spec.shape}
        rows = options.batch_sizes[0]
        inputs = {name: array[:rows] if name in with_batch else array for name, array in feed.items()}
        reference = self.reference(manifest)
        try:
            return Golden(inputs, reference.run(inputs), max(self.tolerance(target), Golden.tolerance))
        finally:
            reference.close()

    def tolerance(self, target: Target) -> float:
        """The target's; a file that computes in halves or in 8 bits rounds at every operator, wherever it runs."""
        from lab.compile.targets.target import HALF_TOLERANCE, INT8_TOLERANCE
        from lab.export.quantize import has_halves, is_quantized

        files = self.files.values()
        halves = HALF_TOLERANCE if any(map(has_halves, files)) else 0.0
        return max(target.tolerance, halves, INT8_TOLERANCE if any(map(is_quantized, files)) else 0.0)

    def judge(self) -> Judge | None:
        """Who knows what the outputs mean; None for a file of no task."""
        if self.opened is not None:
            return judge_of(self.opened)
        known = self.manifest
        return Judge(DEPLOY[known.task], known.labels, known.preprocessing, {}) if known and known.task else None

    def latency_feed(self, manifest: Manifest, batch_size: int) -> Mapping[str, np.ndarray]:
        """Arbitrary inputs; the first samples where the loop of a program needs inputs that make sense."""
        if self.opened is not None and self.functions:
            task = self.opened.learning_task()
            return next(feeds(task, self.opened.deploy, final_split(task), batch_size=batch_size))[0]
        return manifest.signature.example_inputs({BATCH: max(1, manifest.entries[0].batch_size)})


def manifest_beside(onnx: Path) -> Manifest | None:
    """The manifest of the export that `onnx` is part of; None where there is none, or one of other bytes."""
    manifest = existing_artifact(onnx.parent, "compile")
    recorded = manifest.files.get(onnx.name) if manifest and manifest.kind == "onnx" else None
    return manifest if recorded and manifest and not manifest.functions else None
