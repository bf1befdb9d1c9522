"""`lab predict`: files -> one JSON record each; a broken file becomes an error record and the rest goes on."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from lab.artifacts.manifest import Manifest
from lab.core.errors import ArtifactError, DataError
from lab.core.interfaces import Runner
from lab.core.progress import track
from lab.tasks import DEPLOY


def predict(
    artifact: Path, paths: Sequence[str], *, batch_size: int = 16, top_k: int = 5, num_threads: int | None = None
) -> Iterator[dict[str, Any]]:
    """Yield {"file", "prediction"...} or {"file", "error"} for each input file, in order.

    Args:
        artifact: a bundle, or an export folder with model.onnx.
        paths: files, folders (searched recursively) or glob patterns.

    Raises:
        ArtifactError: the artifact is unusable or has no task.
        DataError: a path that does not exist, or no input file at all.
    """
    manifest = Manifest.load(artifact)
    if manifest.task is None:
        raise ArtifactError(
            "this bundle was compiled from an ONNX file alone, so how to read a file is unknown",
            hint="open it from Python: lab.runtime.open_bundle(path).run({name: array})",
        )
    deploy: ModuleType = DEPLOY[manifest.task]
    files = list(expand(paths, deploy.EXTENSIONS))
    runner = _open(artifact, manifest, num_threads)
    try:
        batches = [files[i : i + batch_size] for i in range(0, len(files), batch_size)]
        for batch in track(batches, "predicting", len(batches)):
            yield from _predict_batch(runner, deploy, manifest, batch, top_k)
    finally:
        runner.close()


def expand(paths: Sequence[str], extensions: Sequence[str]) -> Iterator[Path]:
    """Files named directly, files of known type below folders, and what patterns match. Raises DataError."""
    found = False
    for path in paths:
        given = Path(path)
        if given.is_dir():
            matches = sorted(p for p in given.rglob("*") if p.is_file() and p.suffix.lower() in extensions)
        elif given.exists():
            matches = [given]
        else:
            matches = sorted(p for p in _glob(path) if p.is_file())
        if not matches:
            raise DataError(
                f"no input file at {path}",
                expected="a file, a folder with " + "/".join(extensions) + " files, or a pattern",
            )
        found = True
        yield from matches
    if not found:
        raise DataError("no input was given", expected="files, folders or patterns")


def _glob(pattern: str) -> list[Path]:
    # Path.glob takes no absolute pattern before Python 3.13, and users write both kinds.
    return [Path(match) for match in glob.glob(pattern, recursive=True)]  # noqa: PTH207


def _open(artifact: Path, manifest: Manifest, num_threads: int | None) -> Runner:
    from lab.runtime import open_bundle
    from lab.runtime.onnx_runner import OnnxRunner

    if manifest.kind == "bundle":
        return open_bundle(artifact, num_threads=num_threads, verify=False)
    if manifest.kind == "onnx":
        return OnnxRunner(artifact / "model.onnx", num_threads=num_threads)
    raise ArtifactError(f"{artifact} is a training run", expected="a bundle", hint="lab compile makes one")


def _join(feeds: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


def _predict_batch(
    runner: Runner, deploy: ModuleType, manifest: Manifest, files: Sequence[Path], top_k: int
) -> Iterator[dict[str, Any]]:
    ready: dict[Path, dict[str, np.ndarray]] = {}
    errors: dict[Path, DataError] = {}
    for file in files:
        try:
            ready[file] = deploy.preprocess([deploy.load_input(file)], manifest.preprocessing)
        except DataError as error:
            errors[file] = error
    answers: dict[Path, dict[str, Any]] = {}
    if ready:
        outputs = runner.run(_join(list(ready.values())))
        records = deploy.postprocess(outputs, manifest.labels, top_k=top_k, preprocessing=manifest.preprocessing)
        answers = dict(zip(ready, records, strict=True))
    for file in files:
        if file in errors:
            yield {"file": str(file), "error": errors[file].to_dict()}
        else:
            yield {"file": str(file), **answers[file]}
