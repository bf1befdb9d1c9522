"""Every way to open an artifact's model whole: one function as it is, a program's functions with their loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from lab.artifacts.manifest import MAIN, Manifest, file_name
from lab.core.errors import ArtifactError
from lab.core.interfaces import Loop, Runner
from lab.core.signature import Signature
from lab.runtime.program import ProgramRunner

OpenFunction = Callable[[str, Signature], Runner]


def assemble(
    open_function: OpenFunction, signature: Signature, functions: Mapping[str, Signature], loop: Loop | None
) -> Runner:
    """The runner of a whole model out of runners of its functions.

    Args:
        functions: those of a program; none where the model is one call.
        loop: of a program (`lab.tasks.loop_of`).

    Raises:
        ArtifactError: a program without its loop.
    """
    if not functions:
        return open_function(MAIN, signature)
    if loop is None:
        raise ArtifactError(
            "a program cannot be run without its loop",
            got=", ".join(functions),
            hint="give lab.tasks.loop_of as loop_of",
        )
    return ProgramRunner(signature, {name: open_function(name, spec) for name, spec in functions.items()}, loop)


def of_manifest(open_function: OpenFunction, manifest: Manifest, loop: Loop | None) -> Runner:
    """`assemble` for an artifact."""
    return assemble(open_function, manifest.signature, manifest.functions, loop)


def onnx_model(folder: Path, manifest: Manifest, loop: Loop | None, *, num_threads: int | None = None) -> Runner:
    """An export folder in ONNX Runtime."""
    from lab.runtime.onnx_runner import OnnxRunner

    def open_function(name: str, signature: Signature) -> Runner:
        return OnnxRunner(folder / file_name(name, ".onnx"), num_threads=num_threads, signature=signature)

    return of_manifest(open_function, manifest, loop)


def openvino_model(folder: Path, manifest: Manifest, loop: Loop | None, *, num_threads: int | None = None) -> Runner:
    """An export folder in OpenVINO."""
    from lab.runtime.openvino_runner import OpenVinoRunner

    def open_function(name: str, signature: Signature) -> Runner:
        return OpenVinoRunner(folder / file_name(name, ".onnx"), num_threads=num_threads, signature=signature)

    return of_manifest(open_function, manifest, loop)


def bundle_model(
    folder: Path,
    manifest: Manifest,
    loop: Loop | None,
    *,
    num_threads: int | None = None,
    verify: bool = True,
    level: str | None = None,
) -> Runner:
    """A compiled bundle on this machine. Raises as `lab.runtime.open_bundle`."""
    from lab.runtime import open_bundle

    def open_function(name: str, signature: Signature) -> Runner:
        return open_bundle(folder, num_threads=num_threads, verify=verify, function=name, level=level)

    return of_manifest(open_function, manifest, loop)


def emulated_model(folder: Path, manifest: Manifest, loop: Loop | None) -> Runner:
    """A bundle in the C++ runner, under qemu where it is for another architecture. Raises as `EmulatedRunner`."""
    from lab.runtime.edge import EmulatedRunner

    return of_manifest(lambda name, signature: EmulatedRunner(folder, function=name), manifest, loop)


def open_model(
    path: Path | str,
    loop_of: Callable[[Manifest], Loop | None] = lambda manifest: None,
    *,
    num_threads: int | None = None,
) -> Runner:
    """A bundle or an export folder, whole: named arrays in, named arrays out.

    Args:
        loop_of: the loop of a program, `lab.tasks.loop_of`; a model of one call needs none.

    Raises:
        ArtifactError: neither of the two, or damaged.
        IntegrityError, IncompatibleError, MissingToolError: see `lab.runtime.open_bundle`.
    """
    folder = Path(path)
    manifest = Manifest.load(folder)
    if manifest.kind == "bundle":
        return bundle_model(folder, manifest, loop_of(manifest), num_threads=num_threads, verify=False)
    if manifest.kind == "onnx":
        return onnx_model(folder, manifest, loop_of(manifest), num_threads=num_threads)
    raise ArtifactError(f"{folder} is a training run", expected="a bundle", hint="lab compile makes one")
