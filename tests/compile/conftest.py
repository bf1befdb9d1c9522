"""Compiled models that several tests read; compiled once for the session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lab.core.host import cpu_arch
from lab.runtime import threads

ARRAYS = dict[str, np.ndarray]

if cpu_arch() != "x86_64":
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    threads.configure(None)


@pytest.fixture(scope="session")
def run_compiled() -> Callable[..., list[np.ndarray]]:
    """Run one executable of a `Compiled` in this process, without linking."""

    def run(compiled: object, *arrays: np.ndarray, size: int = 0) -> list[np.ndarray]:
        import tvm
        from tvm import relax

        machine = relax.VirtualMachine(compiled.executables[size], tvm.cpu())  # type: ignore[attr-defined]
        result = machine["main"](*[tvm.runtime.tensor(array) for array in arrays])
        tensors = [result] if hasattr(result, "numpy") else list(result)
        return [tensor.numpy() for tensor in tensors]

    return run


@pytest.fixture(scope="session")
def run_onnx() -> Callable[[Path, ARRAYS], list[np.ndarray]]:
    """The reference: ONNX Runtime."""

    def run(path: Path, inputs: ARRAYS) -> list[np.ndarray]:
        import onnxruntime

        return list(onnxruntime.InferenceSession(str(path)).run(None, inputs))

    return run
