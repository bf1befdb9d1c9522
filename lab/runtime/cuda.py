"""Load the part of TVM's runtime that drives NVIDIA GPUs, and kernels that are compiled already."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.core.errors import MissingToolError

SIDECAR = "libtvm_runtime_cuda.so"
CUDA_RUNTIME = "libcudart.so.13"
"""What the sidecar is linked against."""
COMPILE = "tvm_callback_cuda_compile"
_LOCK = threading.Lock()
HINT = "pip install nvidia-cuda-runtime, and check that nvidia-smi finds the driver"


def open_device(tvm_runtime: Any) -> Any:
    """The first CUDA device, with TVM's CUDA runtime loaded: `import tvm` alone does not load it without the compiler.

    Raises:
        MissingToolError: no GPU, no driver, or no CUDA runtime library.
    """
    device = tvm_runtime.device("cuda", 0)
    reason = "" if device.exist else _load_sidecar()
    if not device.exist:
        raise MissingToolError(
            "the bundle needs a CUDA device", got=reason or "none found by the TVM runtime",
            hint="run it where a GPU and its driver are, or compile for x86 or arm",
        )  # fmt: skip
    return device


@contextlib.contextmanager
def machine_code(kernels: Path) -> Iterator[None]:
    """While a library is loaded: its kernels are those of the file, where TVM would compile their source."""
    import tvm_ffi

    with _LOCK:  # the callback is the process's
        before = tvm_ffi.get_global_func(COMPILE, allow_missing=True)
        tvm_ffi.register_global_func(COMPILE, lambda source: kernels.read_bytes(), override=True)
        try:
            yield
        finally:
            if before is None:
                tvm_ffi.registry.remove_global_func(COMPILE)
            else:
                tvm_ffi.register_global_func(COMPILE, before, override=True)


def _load_sidecar() -> str:
    """Returns why it failed, or nothing."""
    import tvm

    path = Path(tvm.__file__).parent / "lib" / SIDECAR
    if not path.is_file():
        return f"no {SIDECAR} in {path.parent}"
    for library in _cuda_runtimes():  # where it is on no path of the loader; torch has loaded it where torch is
        with contextlib.suppress(OSError):
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
            break
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        return f"{error} ({HINT})"
    return ""


def _cuda_runtimes() -> Iterator[str]:
    """Where libcudart may be: the loader's own paths, pip's package, a toolkit."""
    yield CUDA_RUNTIME
    spec = importlib.util.find_spec("nvidia")
    for folder in list(spec.submodule_search_locations or []) if spec else []:
        yield from map(str, sorted(Path(folder).glob(f"*/lib/{CUDA_RUNTIME}"), reverse=True))
    yield f"/usr/local/cuda/lib64/{CUDA_RUNTIME}"
