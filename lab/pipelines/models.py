"""Every way to open a model whole: a single function as it is, a program's functions with the loop of its task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lab.artifacts.manifest import MAIN, Manifest, file_name
from lab.core.errors import ArtifactError
from lab.core.interfaces import Runner
from lab.core.signature import Signature
from lab.runtime.program import ProgramRunner
from lab.tasks import DEPLOY

if TYPE_CHECKING:
    from torch import nn

OpenFunction = Callable[[str, Signature], Runner]


def assemble(
    open_function: OpenFunction,
    deploy: ModuleType | None,
    signature: Signature,
    functions: Mapping[str, Signature],
    preprocessing: Mapping[str, Any],
    options: Mapping[str, Any] | None = None,
) -> Runner:
    """The runner of a whole model out of runners of its functions; `options` are those of the task's `generate`."""
    if not functions:
        return open_function(MAIN, signature)
    if deploy is None:
        raise ArtifactError("a program without its task cannot be run", got=", ".join(functions))
    runners = {name: open_function(name, spec) for name, spec in functions.items()}
    return ProgramRunner(signature, runners, partial(deploy.generate, preprocessing=preprocessing, **(options or {})))


def of_manifest(open_function: OpenFunction, manifest: Manifest, options: Mapping[str, Any] | None = None) -> Runner:
    """`assemble` for an artifact."""
    deploy = DEPLOY[manifest.task] if manifest.task else None
    return assemble(open_function, deploy, manifest.signature, manifest.functions, manifest.preprocessing, options)


def eager(task: Any, model: nn.Module, *, num_threads: int | None = None, torch_compile: bool = False) -> Runner:
    """A task's model in PyTorch, in evaluation mode."""
    from lab.runtime.eager_runner import EagerRunner

    modules = task.export_modules(model.eval())

    def open_function(name: str, signature: Signature) -> Runner:
        return EagerRunner(modules[name], signature, num_threads=num_threads, torch_compile=torch_compile)

    return assemble(open_function, DEPLOY[task.config.task], task.signature, task.functions, task.preprocessing)


def onnx(
    folder: Path, manifest: Manifest, *, num_threads: int | None = None, options: Mapping[str, Any] | None = None
) -> Runner:
    """An export folder in ONNX Runtime."""
    from lab.runtime.onnx_runner import OnnxRunner

    def open_function(name: str, signature: Signature) -> Runner:
        return OnnxRunner(folder / file_name(name, ".onnx"), num_threads=num_threads, signature=signature)

    return of_manifest(open_function, manifest, options)


def openvino(folder: Path, manifest: Manifest, *, num_threads: int | None = None) -> Runner:
    """An export folder in OpenVINO."""
    from lab.runtime.openvino_runner import OpenVinoRunner

    def open_function(name: str, signature: Signature) -> Runner:
        return OpenVinoRunner(folder / file_name(name, ".onnx"), num_threads=num_threads, signature=signature)

    return of_manifest(open_function, manifest)


def bundle(
    folder: Path,
    manifest: Manifest,
    *,
    num_threads: int | None = None,
    verify: bool = True,
    options: Mapping[str, Any] | None = None,
) -> Runner:
    """A compiled bundle on this machine. Raises as `lab.runtime.open_bundle`."""
    from lab.runtime import open_bundle

    def open_function(name: str, signature: Signature) -> Runner:
        return open_bundle(folder, num_threads=num_threads, verify=verify, function=name)

    return of_manifest(open_function, manifest, options)


def emulated(folder: Path, manifest: Manifest) -> Runner:
    """A bundle in the C++ runner, under qemu where it is for another architecture. Raises as `EmulatedRunner`."""
    from lab.runtime.edge import EmulatedRunner

    return of_manifest(lambda name, signature: EmulatedRunner(folder, function=name), manifest)


def open_model(path: Path | str, *, num_threads: int | None = None, options: Mapping[str, Any] | None = None) -> Runner:
    """A bundle or an export folder, whole: named arrays in, named arrays out.

    Args:
        options: of the loop of a program, such as beam_size or num_samples.

    Raises:
        ArtifactError: neither of the two, or damaged.
        IntegrityError, IncompatibleError, MissingToolError: see `lab.runtime.open_bundle`.
    """
    folder = Path(path)
    manifest = Manifest.load(folder)
    if manifest.kind == "bundle":
        return bundle(folder, manifest, num_threads=num_threads, verify=False, options=options)
    if manifest.kind == "onnx":
        return onnx(folder, manifest, num_threads=num_threads, options=options)
    raise ArtifactError(f"{folder} is a training run", expected="a bundle", hint="lab compile makes one")
