"""What this machine can do for the lab, and what to install for the rest.

Nothing heavy is imported: versions come from package metadata. PyTorch is imported only where a GPU driver is, because
only PyTorch can tell whether it works with that driver.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from lab.core import host
from lab.core.errors import LabError
from lab.data.catalog import CATALOG, CatalogEntry
from lab.data.resolve import data_root, has_files
from lab.pipelines.fat_bundles import fat_bundles
from lab.runtime.toolchain import SETUP_ARM, capture, toolchain
from lab.tracking.server import is_http, resolve_uri

Status = Literal["ok", "missing", "limited"]

NETWORK_TIMEOUT_S = 1.5
MIN_FREE_GB = 10
MIN_MEMORY_GB = 4
# The psABI's levels, in /proc/cpuinfo's spelling (pni is SSE3, abm is LZCNT).
X86_LEVELS = {
    2: {"cx16", "lahf_lm", "popcnt", "pni", "ssse3", "sse4_1", "sse4_2"},
    3: {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"},
    4: {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
}
NOTABLE_FEATURES = (
    "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd", "asimddp", "i8mm", "sve", "bf16",
)  # fmt: skip
# Package, what it is for, the extra that installs it.
PACKAGES = (
    ("torch", "training and export", "train"),
    ("torchvision", "training and export", "train"),
    ("lightning", "training", "train"),
    ("mlflow", "tracking", "track"),
    ("onnx", "export", "export"),
    ("onnxruntime", "export, parity and bench", "export"),
    ("apache-tvm", "compiling, and running bundles", "compile"),
    ("apache-tvm-ffi", "compiling, and running bundles", "compile"),
    ("openvino", "the OpenVINO row of lab bench", "bench"),
)
NVRTC_PACKAGES = ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu13", "nvidia-cuda-nvrtc-cu12")


@dataclass(frozen=True)
class Finding:
    """One thing looked at: `detail` is what was found, `fix` what to do about what is missing (empty when ok)."""

    area: str
    status: Status
    detail: str
    fix: str = ""


def examine() -> list[Finding]:
    """Look at everything, in the order of the data's way. Takes under five seconds; installs and changes nothing."""
    checks: list[Callable[[], Iterator[Finding]]] = [
        _machine, _gpu, _packages, _cuda_compiler, _compilers, _disk, _tracking, _data_sets, _fat_bundles,
    ]  # fmt: skip
    return [finding for check in checks for finding in check()]


def x86_level(features: frozenset[str]) -> int:
    """The x86-64 level (1 to 4) of a CPU with these features."""
    level = 1
    for candidate, needed in X86_LEVELS.items():
        if not needed <= features:
            break
        level = candidate
    return level


def _machine() -> Iterator[Finding]:
    features = host.cpu_features()
    level = f" (x86-64-v{x86_level(features)})" if host.cpu_arch() == "x86_64" else ""
    notable = " ".join(name for name in NOTABLE_FEATURES if name in features)
    yield Finding("CPU", "ok", f"{host.cpu_name()}, {host.cpu_arch()}{level}, {host.num_cores()} cores, {notable}")
    memory_gb = memory_bytes() / 1e9
    low = 0 < memory_gb < MIN_MEMORY_GB
    yield Finding(
        "memory",
        "limited" if low else "ok",
        f"{memory_gb:.1f} GB" if memory_gb else "unknown",
        f"training wants {MIN_MEMORY_GB} GB; a smaller train.batch_size needs less" if low else "",
    )
    python = ".".join(map(str, sys.version_info[:3]))
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Finding(
        "Python", "ok" if fits else "limited", python, "" if fits else "the lab is tested with Python 3.11 to 3.13"
    )


def _fat_bundles() -> Iterator[Finding]:
    for folder, told, ok in fat_bundles():
        yield Finding(
            f"bundle {folder}", "ok" if ok else "limited", told, "" if ok else "compile it for older CPUs too"
        )


def memory_bytes() -> int:
    """Memory this process may use: the machine's, or its container's limit; 0 when unknown."""
    found = re.search(r"MemTotal:\s+(\d+) kB", _read("/proc/meminfo"))
    total = int(found[1]) * 1024 if found else 0
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    return min(total, int(limit)) if limit.isdigit() else total


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _gpu() -> Iterator[Finding]:
    cards = _nvidia_smi()
    if not cards and not Path("/dev/nvidiactl").exists():
        yield Finding(
            "GPU",
            "missing",
            "no NVIDIA driver answers",
            "nothing: training runs on the CPU; CUDA bundles compile, but cannot run here",
        )
        return
    name = "; ".join(cards) or "device files, but nvidia-smi does not answer"
    if _version("torch") is None:
        yield Finding("GPU", "limited", name, f"PyTorch is not installed: {install('train')}")
        return
    import torch

    if torch.cuda.is_available():
        yield Finding("GPU", "ok", f"{name} (PyTorch {torch.__version__}, CUDA {torch.version.cuda})")
    else:
        yield Finding(
            "GPU",
            "limited",
            f"{name}, but PyTorch cannot use it",
            f"a driver for CUDA {torch.version.cuda}, or the PyTorch build for this driver",
        )


def _nvidia_smi() -> list[str]:
    """ "NVIDIA H100 80GB HBM3, 81559 MiB, driver 570.86" per card; empty without a working driver."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=3)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _packages() -> Iterator[Finding]:
    for package, purpose, extra in PACKAGES:
        found = _version(package)
        if found is None:
            yield Finding(package, "missing", f"needed for {purpose}", install(extra))
        else:
            yield Finding(package, "ok", found)


def install(extra: str) -> str:
    """The command that installs an extra; from the source folder, because the name `lab` is not ours in any index."""
    return f"make setup, or in the lab's folder: pip install -c constraints.txt '.[{extra}]'"


def _cuda_compiler() -> Iterator[Finding]:
    nvcc = shutil.which("nvcc")
    nvrtc = next((f"NVRTC ({name} {_version(name)})" for name in NVRTC_PACKAGES if _version(name)), None)
    found = [item for item in (nvcc, nvrtc) if item]
    if found:
        yield Finding("CUDA compiler", "ok", ", ".join(found))
    else:
        yield Finding(
            "CUDA compiler",
            "missing",
            "neither nvcc nor NVRTC; needed by --target cuda",
            "pip install nvidia-cuda-nvrtc, or the CUDA toolkit",
        )


def _compilers() -> Iterator[Finding]:
    tools = toolchain()
    yield _tool(
        "C++ compiler",
        tools.host_compiler,
        "links bundles for this machine",
        "apt-get install g++, or your distribution's C++ compiler",
    )
    yield _tool("ARM compiler", tools.arm_compiler, "links bundles for --target arm", SETUP_ARM)
    if host.cpu_arch() == "aarch64":
        yield Finding("ARM emulator", "ok", "not needed: this machine is ARM")
        return
    emulator = tools.qemu_arm if tools.arm_sysroot else None
    yield _tool("ARM emulator", emulator, "checks ARM bundles here (qemu-user and an aarch64 C library)", SETUP_ARM)


def _tool(area: str, path: str | None, purpose: str, fix: str) -> Finding:
    if path is None:
        return Finding(area, "missing", purpose, fix)
    first_line = capture([path, "--version"], check=False).splitlines()[:1]
    return Finding(area, "ok", first_line[0] if first_line else path)


def _disk() -> Iterator[Finding]:
    free_gb = shutil.disk_usage(Path.cwd()).free / 1e9
    low = free_gb < MIN_FREE_GB
    fix = f"free some: PyTorch alone takes 6 GB, so {MIN_FREE_GB} GB are comfortable" if low else ""
    yield Finding("disk", "limited" if low else "ok", f"{free_gb:.0f} GB free at {Path.cwd()}", fix)


def _tracking() -> Iterator[Finding]:
    try:
        uri = resolve_uri(None)
    except LabError as error:
        yield Finding(
            "MLflow server", "limited", without_password(error.what), error.hint or "correct MLFLOW_TRACKING_URI"
        )
        return
    shown = without_password(uri)
    problem = _ask(uri) if is_http(uri) else ""
    if problem:
        fix = "start it, or unset MLFLOW_TRACKING_URI; runs made meanwhile stay on disk for `lab runs sync`"
        yield Finding("MLflow server", "missing", f"{shown}: {problem}", fix)
    else:
        answer = "answers" if is_http(uri) else "is where runs are tracked; no server needed"
        yield Finding("MLflow server", "ok", f"{shown} {answer}")


def _ask(uri: str) -> str:
    """Why a server is not usable, empty when it is. Asked without the client, whose import alone takes seconds."""
    outcome: list[str] = []
    # Name resolution has no timeout of its own, hence a thread that can be left behind.
    thread = threading.Thread(target=lambda: outcome.append(_health(uri)), daemon=True)
    thread.start()
    thread.join(NETWORK_TIMEOUT_S)
    return outcome[0] if outcome else f"no answer within {NETWORK_TIMEOUT_S:g} s"


def _health(uri: str) -> str:
    parts = urlsplit(uri)
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=parts.path.rstrip("/") + "/health").geturl()
    try:
        with urllib.request.urlopen(address, timeout=NETWORK_TIMEOUT_S):
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        # A refusal is an answer: credentials are the client's business.
        return "" if error.code in (401, 403) else f"HTTP {error.code}"
    except (OSError, ValueError) as error:
        return without_password(str(getattr(error, "reason", error)))


def without_password(text: str) -> str:
    """The text with the user name and password of every address in it replaced."""
    return re.sub(r"(?<=://)[^/@\s]+@", "***@", text)


def _data_sets() -> Iterator[Finding]:
    root = data_root()
    present = [entry.name for entry in CATALOG.values() if _is_there(entry, root)]
    absent = [name for name in CATALOG if name not in present]
    detail = f"{', '.join(present) or 'none yet'} in {root}"
    known = f"lab data fetch {absent[0]} (known: {', '.join(absent)})" if absent else ""
    yield Finding("data sets", "ok" if present else "missing", detail, "" if present else known)


def _is_there(entry: CatalogEntry, root: Path) -> bool:
    return has_files(entry, root / (entry.base or entry.name))
