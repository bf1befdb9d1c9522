"""A compiled model's executables as libraries on disk, linked for the target."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.artifacts.manifest import MAIN, Entry, file_name
from lab.compile.targets import Target
from lab.core.errors import MissingToolError, UnsupportedError, last_line

if TYPE_CHECKING:
    from lab.compile.build import Compiled

HOST_LINKERS = ("g++", "gcc", "clang++", "clang")


def check_tools(target: Target) -> None:
    """Raises MissingToolError when linking or code generation for `target` needs a program this machine lacks."""
    if target.linker is not None and shutil.which(target.linker) is None:
        raise MissingToolError(
            f"compiling for {target.name} needs the linker {target.linker}", got="not found on PATH",
            hint=target.linker_hint,
        )  # fmt: skip
    if target.linker is None and not any(shutil.which(name) for name in HOST_LINKERS):
        raise MissingToolError(
            "linking a library needs a C compiler", got="none found on PATH", expected=" or ".join(HOST_LINKERS),
            hint="apt-get install gcc g++",
        )  # fmt: skip
    if target.kind == "cuda":
        from lab.compile.targets.cuda_tools import prepare

        prepare(target.spec.cuda_arch)


def write_library(compiled: Compiled, folder: Path, function: str = MAIN, level: str = "") -> list[Entry]:
    """Link one library per batch size into `folder` and return the manifest's entries; constants are inside.

    Args:
        function: which of a program's functions it is.
        level: of a fat bundle, which level.

    Raises:
        MissingToolError: the cross-linker is missing.
        UnsupportedError: CUDA's compiler refuses the generated kernels.
    """
    check_tools(compiled.target)
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for size, executable in compiled.executables.items():
        kernels = file_name(function, f"_b{size}.cubin") if compiled.target.kind == "cuda" else None
        suffix = f"_b{size}.{level}.so" if level else f"_b{size}.so"
        entry = Entry(file_name(function, suffix), size, function, kernels, level=level)
        export_library(executable, folder / entry.library, compiled.target)
        if kernels:
            (folder / kernels).write_bytes(gpu_code(executable, compiled.target))
        entries.append(entry)
    for size, parts in compiled.parts.items():
        from lab.compile.partial import write_parts

        entries.append(Entry("", size, function, parts=write_parts(parts, folder, size, compiled.target)))
    return entries


def export_library(executable: Any, path: Path, target: Target) -> None:
    """Link an executable into a shared library with the target's linker."""
    from tvm.support import cc

    link = cc.cross_compiler(target.linker) if target.linker else None
    executable.export_library(str(path), **({"fcompile": link} if link else {}))


def gpu_code(executable: Any, target: Target) -> bytes:
    """The machine code of an executable's CUDA kernels; TVM stores their source, for the GPU's machine to compile.

    Raises:
        UnsupportedError: CUDA's compiler refuses them.
    """
    from tvm.support.nvcc import compile_cuda

    sources = [module.inspect_source() for module in _imports(executable.mod) if module.kind == "cuda"]
    if len(sources) != 1:
        raise UnsupportedError(f"{target.name}: no GPU kernels to compile", got=f"{len(sources)} modules of them")
    try:
        return bytes(compile_cuda(sources[0], "cubin", arch=target.spec.cuda_arch, compiler="nvrtc"))
    except RuntimeError as error:
        raise UnsupportedError(f"{target.name}: the kernels do not compile", got=last_line(error)) from error


def _imports(module: Any) -> Iterator[Any]:
    yield module
    for imported in module.imports:
        yield from _imports(imported)
