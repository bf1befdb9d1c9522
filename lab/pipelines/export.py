"""`lab export`: trained run -> ONNX + manifest, equal to the torch model at two batch sizes.

A model that is one call becomes model.onnx, a program one file per function.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lab.artifacts.files import atomic_dir, recover_dir, sha256_file, write_text
from lab.artifacts.manifest import MAIN, MANIFEST_NAME, Manifest, file_name
from lab.core.host import num_cores, versions
from lab.core.progress import say
from lab.core.timing import Stages
from lab.pipelines.context import OpenRun, existing_artifact
from lab.pipelines.evaluate import feeds, final_split
from lab.pipelines.models import eager_model
from lab.pipelines.parity import Climbed, climb, judge_of, require
from lab.runtime.models import onnx_model
from lab.tasks import loop_of

BATCH_SIZES = (1, 3)  # a size frozen into the graph shows at the other one
SAMPLES_PER_SIZE = 24


@dataclass(frozen=True)
class ExportReport:
    """What `lab export` tells."""

    folder: Path
    manifest: Manifest
    skipped: bool

    def files(self) -> dict[str, Path]:
        """The ONNX file of each function."""
        return {name: self.folder / file_name(name, ".onnx") for name in self.manifest.called()}

    def to_dict(self) -> dict[str, Any]:
        return {
            "onnx": [str(path) for path in self.files().values()],
            "skipped": self.skipped,
            "size_bytes": onnx_bytes(self.manifest),
            "parity": [rung.__dict__ for rung in self.manifest.parity],
            "metrics": self.manifest.metrics,
            "durations_s": self.manifest.durations_s,
        }


def export(opened: OpenRun, *, force: bool = False) -> ExportReport:
    """Export a run once; unchanged weights, options and versions are skipped, and the report says so.

    Raises:
        UnsupportedError: the model cannot be captured.
        ParityError: ONNX Runtime and torch disagree beyond the configured tolerance; nothing is kept.
    """
    run = opened.dir
    recover_dir(run.export)
    parents = {"model.safetensors": sha256_file(run.weights)}
    options = opened.config.export.model_dump()
    existing = existing_artifact(run.export, "export")
    if existing and not force and _unchanged(existing, parents, options):
        say(f"export: unchanged since {existing.created}, skipped (--force repeats it)")
        return ExportReport(run.export, existing, skipped=True)
    return ExportReport(run.export, _export(opened, parents, options), skipped=False)


def _unchanged(existing: Manifest, parents: dict[str, str], options: dict[str, Any]) -> bool:
    return (existing.parents, existing.options, existing.versions) == (parents, options, versions())


def _export(opened: OpenRun, parents: dict[str, str], options: dict[str, Any]) -> Manifest:
    run, stages = opened.dir, Stages()
    task = opened.learning_task()
    model = opened.build_model()
    with atomic_dir(run.export) as folder:
        say("exporting to ONNX ...")
        with stages.stage("export"):
            files = _write_functions(task, model, folder, options["opset"])
        write_text(folder / "labels.txt", "".join(f"{label}\n" for label in task.labels))
        manifest = Manifest(
            kind="onnx",
            name=run.name,
            task=opened.config.task,
            signature=task.signature,
            functions=task.functions,
            parents=parents,
            preprocessing=task.preprocessing,
            labels=tuple(task.labels),
            metrics=opened.manifest.metrics,
            options=options,
            versions=versions(),
        ).with_files(folder, [*files, "labels.txt"])
        say("comparing ONNX Runtime with PyTorch ...")
        with stages.stage("parity"):
            climbed = _parity(opened, task, model, folder, manifest)
        require([climbed.rung])
        manifest = replace(manifest, parity=(climbed.rung,), durations_s=stages.durations_s)
        manifest.save(folder)
    _track(opened, manifest)
    return Manifest.load(run.export)


def _write_functions(task: Any, model: Any, folder: Path, opset: int) -> list[str]:
    """One ONNX file per function; their names."""
    from lab.export.onnx_export import export_onnx

    modules, names = task.export_modules(model), []
    for function, signature in (task.functions or {MAIN: task.signature}).items():
        names.append(file_name(function, ".onnx"))
        export_onnx(modules[function], signature, folder / names[-1], opset=opset)
    return names


def _parity(opened: OpenRun, task: Any, model: Any, folder: Path, manifest: Manifest) -> Climbed:
    eager = eager_model(task, model, num_threads=num_cores())
    onnx = onnx_model(folder, manifest, loop_of(manifest), num_threads=num_cores())
    tolerance = manifest.options["tolerance"]
    climbed = climb(eager, onnx, _two_sizes(opened, task), tolerance=tolerance, judge=judge_of(opened))
    onnx.close()
    return climbed


def onnx_bytes(manifest: Manifest) -> int:
    """The size of an export's ONNX files in bytes."""
    return sum(int(entry["size_bytes"]) for name, entry in manifest.files.items() if name.endswith(".onnx"))


def _two_sizes(opened: OpenRun, task: Any) -> Iterator[Any]:
    for size in BATCH_SIZES:
        batches = feeds(task, opened.deploy, final_split(task), batch_size=size, limit=SAMPLES_PER_SIZE)
        yield from itertools.islice(batches, SAMPLES_PER_SIZE)


def _track(opened: OpenRun, manifest: Manifest) -> None:
    tracker = opened.tracker("export onnx", {"lab.target": "onnx"})
    rung = manifest.parity[0]
    tracker.log_params({"target": "onnx", **manifest.options})
    tracker.log_metrics(
        {
            "max_abs_error": float(rung.max_abs_error or 0.0),
            "size_mb": onnx_bytes(manifest) / 1e6,
            "export_s": manifest.durations_s["export"],
        }
    )
    tracker.log_artifact(opened.dir.export / MANIFEST_NAME, "export")
    if opened.config.tracking.register_model:
        tracker.register_model(
            name=f"{opened.config.task}-{opened.config.name}-onnx", folder=opened.dir.export, manifest=manifest
        )
    tracker.finish()
