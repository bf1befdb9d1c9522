"""What this machine is: CPU architecture, model and instruction-set features, core count, installed versions."""

from __future__ import annotations

import os
import platform
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("lab", "numpy", "torch", "torchvision", "lightning", "mlflow", "onnx", "onnxruntime", "openvino",
            "apache-tvm", "apache-tvm-ffi")  # fmt: skip


@lru_cache(maxsize=1)
def _cpuinfo() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first = path.read_text(errors="replace").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip().lower(): value.strip() for key, _, value in pairs}


def cpu_arch() -> str:
    """ "x86_64", "aarch64", ... as the kernel names it."""
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())


def cpu_name() -> str:
    """The model name the CPU reports."""
    info = _cpuinfo()
    return info.get("model name") or info.get("cpu part") or platform.processor() or "unknown"


def cpu_features() -> frozenset[str]:
    """Instruction-set features in the kernel's spelling ("avx512f", "fma", "asimd")."""
    info = _cpuinfo()
    return frozenset((info.get("flags") or info.get("features") or "").split())


def num_cores() -> int:
    """Cores this process may use (affinity respected)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_cores() -> None:
    """Let waiting OpenMP threads give up their core soon; only works before PyTorch is imported.

    GNU OpenMP spins 300,000 turns by default. On a machine with other work, a thread that spins keeps its core from the
    thread it waits for: training beside one other busy process ran at 0.2 to 0.4 of the throughput it has this way.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def versions() -> dict[str, str]:
    """Python and the installed version of every package whose version changes a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
