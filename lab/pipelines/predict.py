"""`lab predict`: files -> one JSON record each; a broken file becomes an error record and the rest goes on."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from lab.artifacts.files import atomic_path
from lab.artifacts.manifest import Manifest
from lab.core.errors import ArtifactError, ConfigError, DataError
from lab.core.interfaces import Runner
from lab.core.progress import track
from lab.tasks import DEPLOY


def predict(
    artifact: Path,
    paths: Sequence[str],
    *,
    batch_size: int = 16,
    options: Mapping[str, Any] | None = None,
    save: Saving | None = None,
    num_threads: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield {"file", "prediction"...} or {"file", "error"} for each input file, in order.

    Args:
        artifact: a bundle, or an export folder with model.onnx.
        paths: files, folders (searched recursively) or glob patterns.
        options: of the task's postprocessing, such as top_k; those that are None keep their default.
        save: what else to write beside the records.

    Raises:
        ArtifactError: the artifact is unusable or has no task.
        DataError: a path that does not exist, or no input file at all.
        ConfigError: an option that this task does not have.
    """
    manifest = Manifest.load(artifact)
    if manifest.task is None:
        raise ArtifactError(
            "this bundle was compiled from an ONNX file alone, so how to read a file is unknown",
            hint="open it from Python: lab.runtime.open_bundle(path).run({name: array})",
        )
    deploy: ModuleType = DEPLOY[manifest.task]
    chosen = _options(deploy, manifest.task, options or {})
    files = list(expand(paths, deploy.EXTENSIONS))
    batch_size = min(batch_size, deploy.images_per_call(manifest.preprocessing) or batch_size)
    runner = _open(artifact, manifest, num_threads)
    try:
        batches = [files[i : i + batch_size] for i in range(0, len(files), batch_size)]
        for batch in track(batches, "predicting", len(batches)):
            yield from _predict_batch(runner, deploy, manifest, batch, chosen, save or Saving())
    finally:
        runner.close()


def _options(deploy: ModuleType, task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in options.items() if value is not None}
    unknown = sorted(set(given) - set(deploy.OPTIONS))
    if unknown:
        raise ConfigError(
            f"{task} has no option {', '.join(unknown)}", expected=", ".join(deploy.OPTIONS) or "no option"
        )
    return given


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
    runner: Runner,
    deploy: ModuleType,
    manifest: Manifest,
    files: Sequence[Path],
    options: Mapping[str, Any],
    save: Saving,
) -> Iterator[dict[str, Any]]:
    images: dict[Path, np.ndarray] = {}
    feeds: list[dict[str, np.ndarray]] = []
    errors: dict[Path, DataError] = {}
    for file in files:
        try:
            image = deploy.load_input(file)
            feeds.append(deploy.preprocess([image], manifest.preprocessing))
            images[file] = image
        except DataError as error:
            errors[file] = error
    answers: dict[Path, Any] = {}
    if images:
        outputs = runner.run(_join(feeds))
        sizes = [image.shape[:2] for image in images.values()]
        predictions = deploy.postprocess(outputs, manifest.labels, sizes, manifest.preprocessing, **options)
        answers = dict(zip(images, predictions, strict=True))
    for file in files:
        if file in errors:
            yield {"file": str(file), "error": errors[file].to_dict()}
        else:
            saved = save.write(file, images[file], answers[file], deploy, manifest.labels)
            yield {"file": str(file), **deploy.to_record(answers[file], manifest.labels), **saved}


@dataclass(frozen=True)
class Saving:
    """Files to write for each input: pictures of the prediction, and the endpoint's response of one content type."""

    pictures: Path | None = None
    responses: Path | None = None
    accept: str | None = None

    def write(
        self, file: Path, image: np.ndarray, prediction: Any, deploy: ModuleType, labels: Sequence[str]
    ) -> dict[str, str]:
        """What was written, for the record. Raises StorageError, or DataError for an unknown content type."""
        written: dict[str, str] = {}
        # Files of two folders may share a name.
        stem = f"{file.stem}-{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
        if self.pictures is not None:
            written["picture"] = str(self.pictures / f"{stem}.png")
            with atomic_path(self.pictures / f"{stem}.png") as path:
                Image.fromarray(deploy.draw(image, prediction, labels)).save(path, format="PNG")
        if self.responses is not None:
            accept = self.accept or deploy.ACCEPTS[0]
            target = self.responses / f"{stem}{_SUFFIXES.get(accept, '.bin')}"
            written["response"] = str(target)
            with atomic_path(target) as path:
                path.write_bytes(deploy.respond(prediction, accept))
        return written


_SUFFIXES = {"image/png": ".png", "application/json": ".json", "application/json;annotation=1": ".json"}
