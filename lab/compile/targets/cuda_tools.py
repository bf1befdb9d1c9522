"""Find what turns generated CUDA source into GPU code: NVRTC and its headers, from pip's packages or from a toolkit."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

from lab.core.errors import MissingToolError

STANDARD_HEADER = Path("cuda") / "std" / "cstdint"
RUNTIME_HEADER = "cuda_runtime.h"
HINT = (
    "pip install cuda-bindings nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cuda-crt nvidia-cuda-cccl, "
    "or install a CUDA toolkit"
)


def prepare(arch: str) -> None:
    """Point TVM's CUDA compiler at its headers, by the environment variables it reads.

    Raises:
        MissingToolError: NVRTC or its headers are missing, or this NVRTC no longer (or not yet) knows `arch`.
    """
    if importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.bindings") is None:
        raise MissingToolError("compiling for CUDA needs NVRTC", got="no package cuda-bindings", hint=HINT)
    known = _known_architectures()
    if arch not in known:
        raise MissingToolError(
            f"the installed NVRTC does not compile for {arch}", got=f"it knows {', '.join(known)}",
            hint="CUDA 13 dropped everything before sm_75: use cuda-bindings and nvidia-cuda-nvrtc of version 12",
        )  # fmt: skip
    headers = _headers()
    os.environ["CUDA_PATH"] = str(headers[0].parent)
    flags = os.environ.get("TVM_CUDA_NVRTC_EXTRA_OPTS", "")
    extra = [f"-I{folder}" for folder in headers if f"-I{folder}" not in flags.split()]
    os.environ["TVM_CUDA_NVRTC_EXTRA_OPTS"] = " ".join([flags, *extra]).strip()


def _known_architectures() -> list[str]:
    from cuda.bindings import nvrtc

    try:
        status, archs = nvrtc.nvrtcGetSupportedArchs()
    except RuntimeError as error:  # the bindings look for the library at the first call
        raise MissingToolError("compiling for CUDA needs NVRTC", got=str(error).splitlines()[0], hint=HINT) from error
    if int(status) != 0:
        raise MissingToolError("NVRTC does not answer", got=str(status), hint=HINT)
    return [f"sm_{arch}" for arch in archs]


def _headers() -> list[Path]:
    """Include folders: the runtime's headers first, the standard library's (libcu++) after them."""
    for runtime in _include_folders():
        if not (runtime / RUNTIME_HEADER).is_file():
            continue
        for standard in (runtime, *_include_folders()):
            for folder in (standard, standard / "cccl"):
                if (folder / STANDARD_HEADER).is_file():
                    return [runtime, folder]
    raise MissingToolError(
        "compiling for CUDA needs the CUDA headers",
        got=f"no folder with {RUNTIME_HEADER} and {STANDARD_HEADER}",
        hint=HINT,
    )


def _include_folders() -> Iterator[Path]:
    """Where headers may be: the user's choice, pip's packages (they fit the NVRTC beside them), then toolkits."""
    if "CUDA_PATH" in os.environ:
        yield Path(os.environ["CUDA_PATH"]) / "include"
    spec = importlib.util.find_spec("nvidia")
    for folder in list(spec.submodule_search_locations or []) if spec else []:
        yield from sorted(Path(folder).glob("cu*/include"), reverse=True)
    for toolkit in ("/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda"):
        yield Path(toolkit) / "include"
        yield from sorted(Path(toolkit).glob("targets/*/include"))
