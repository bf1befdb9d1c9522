"""`lab predict`: inputs of files -> one JSON record each; a broken one becomes an error record and the rest goes on.

An image file is one input; a file of sentences or of series holds many, one per line.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

from lab.artifacts.files import atomic_path
from lab.artifacts.manifest import Manifest
from lab.core.errors import ArtifactError, ConfigError, DataError
from lab.core.interfaces import Runner
from lab.core.progress import track
from lab.runtime.models import open_model
from lab.tasks import DEPLOY, loop_of


def predict(
    artifact: Path,
    paths: Sequence[str],
    *,
    batch_size: int = 16,
    options: Mapping[str, Any] | None = None,
    save: Saving | None = None,
    num_threads: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield {"file", prediction...} or {"file", "error"} for each input, in order; of many in a file also "index".

    Args:
        artifact: a bundle, or an export folder with its ONNX files.
        paths: files, folders (searched recursively) or glob patterns.
        options: of the task's postprocessing or its loop, such as top_k or beam_size; those that are None keep their
            default.
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
    of_loop, of_answer = _options(deploy, manifest.task, options or {})
    files = list(expand(paths, deploy.EXTENSIONS))
    batch_size = min(batch_size, deploy.inputs_per_call(manifest.preprocessing) or batch_size)
    runner = open_model(artifact, partial(loop_of, options=of_loop), num_threads=num_threads)
    predictor = _Predictor(runner, deploy, manifest, of_answer, save or Saving())
    try:
        for batch in _batches(track(files, "predicting", len(files)), deploy, batch_size):
            yield from predictor.records(batch)
    finally:
        runner.close()


def _options(deploy: ModuleType, task: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options that are given: (those of the program's loop, those of `postprocess`)."""
    given = {name: value for name, value in options.items() if value is not None}
    of_loop = getattr(deploy, "LOOP_OPTIONS", ())
    known = (*of_loop, *deploy.OPTIONS)
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ConfigError(f"{task} has no option {', '.join(unknown)}", expected=", ".join(known) or "no option")
    loop = {name: value for name, value in given.items() if name in of_loop}
    return loop, {name: value for name, value in given.items() if name not in of_loop}


@dataclass(frozen=True)
class _Item:
    """One input of a file, or why it cannot be read; `index` is None where it is the file's only one."""

    file: Path
    index: int | None
    content: Any


def _batches(files: Iterable[Path], deploy: ModuleType, batch_size: int) -> Iterator[list[_Item]]:
    items: list[_Item] = []
    for file in files:
        items += _items_of(file, deploy)
        while len(items) >= batch_size:
            yield items[:batch_size]
            items = items[batch_size:]
    if items:
        yield items


def _items_of(file: Path, deploy: ModuleType) -> list[_Item]:
    try:
        found = deploy.load_inputs(file)
    except DataError as error:
        return [_Item(file, None, error)]
    return [_Item(file, index if len(found) > 1 else None, content) for index, content in enumerate(found)]


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


@dataclass(frozen=True)
class _Predictor:
    """An opened model with all that turns a batch of inputs into records."""

    runner: Runner
    deploy: ModuleType
    manifest: Manifest
    options: Mapping[str, Any]
    save: Saving

    def records(self, items: Sequence[_Item]) -> Iterator[dict[str, Any]]:
        """One record per item, in order."""
        errors = {at: item.content for at, item in enumerate(items) if isinstance(item.content, DataError)}
        readable = {at: item.content for at, item in enumerate(items) if at not in errors}
        try:
            answers = self._answers(readable)
        except DataError:
            # One input that the model cannot take must not cost the others their answers.
            errors |= self._refused(readable)
            answers = self._answers({at: content for at, content in readable.items() if at not in errors})
        for at, item in enumerate(items):
            place = {"file": str(item.file)} | ({} if item.index is None else {"index": item.index})
            if at in errors:
                yield place | {"error": errors[at].to_dict()}
                continue
            saved = self.save.write(item, answers[at], self.deploy, self.manifest.labels)
            yield place | self.deploy.to_record(answers[at], self.manifest.labels) | saved

    def _answers(self, contents: Mapping[int, Any]) -> dict[int, Any]:
        if not contents:
            return {}
        inputs, preprocessing = list(contents.values()), self.manifest.preprocessing
        outputs = self.runner.run(self.deploy.preprocess(inputs, preprocessing))
        found = self.deploy.postprocess(outputs, self.manifest.labels, inputs, preprocessing, **self.options)
        return dict(zip(contents, found, strict=True))

    def _refused(self, contents: Mapping[int, Any]) -> dict[int, DataError]:
        found = {}
        for at, content in contents.items():
            try:
                self.deploy.preprocess([content], self.manifest.preprocessing)
            except DataError as error:
                found[at] = error
        return found


@dataclass(frozen=True)
class Saving:
    """Files to write for each input: pictures of the prediction, and the endpoint's response of one content type."""

    pictures: Path | None = None
    responses: Path | None = None
    accept: str | None = None

    def write(self, item: _Item, prediction: Any, deploy: ModuleType, labels: Sequence[str]) -> dict[str, str]:
        """What was written, for the record. Raises StorageError, or DataError for an unknown content type."""
        written: dict[str, str] = {}
        # Files of two folders may share a name.
        stem = f"{item.file.stem}-{hashlib.sha256(str(item.file).encode()).hexdigest()[:8]}"
        stem += "" if item.index is None else f"-{item.index}"
        if self.pictures is not None:
            written["picture"] = str(self.pictures / f"{stem}.png")
            with atomic_path(self.pictures / f"{stem}.png") as path:
                Image.fromarray(deploy.draw(item.content, prediction, labels)).save(path, format="PNG")
        if self.responses is not None:
            accept = self.accept or deploy.ACCEPTS[0]
            target = self.responses / f"{stem}{_SUFFIXES.get(accept, '.bin')}"
            written["response"] = str(target)
            with atomic_path(target) as path:
                path.write_bytes(deploy.respond(prediction, accept))
        return written


_SUFFIXES = {"image/png": ".png", "application/json": ".json", "application/json;annotation=1": ".json"}
