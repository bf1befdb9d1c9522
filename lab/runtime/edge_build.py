"""Build what a device needs: the program `lab_run`, the library `liblab.so` with its C header, and TVM's runtime.

Beside them lie only `libtvm_runtime.so` and `libtvm_ffi.so`, from the installed wheels or, for another architecture,
from the same versions' wheels of that architecture. Builds are kept in a cache, named by their content.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from lab.artifacts.files import atomic_dir, storage_errors
from lab.core import host
from lab.core.errors import LabError, MissingToolError
from lab.core.progress import say
from lab.runtime.toolchain import Arch, capture, toolchain

SOURCES = Path(__file__).parent / "cpp"
HEADER = "lab.h"
PROGRAM = "lab_run"
LIBRARY = "liblab.so"
# lab_run speaks to the library through its C API alone; what both need (arrays, errors, files) is small and in both.
PROGRAM_PARTS = ("main.cc", "options.cc", "npy.cc", "latency.cc")
PARTS_OF_BOTH = ("array.cc", "cpu.cc", "error.cc", "files.cc")
TVM_LIBRARIES = {"apache-tvm": "tvm/lib/libtvm_runtime.so", "apache-tvm-ffi": "tvm_ffi/lib/libtvm_ffi.so"}
HEADERS = "tvm_ffi/include/"
FLAGS = ("-std=c++17", "-O2", "-Wall", "-Wextra", "-fPIC", "-fvisibility=hidden", "-DLAB_BUILD")
# The tags the two wheels carry; pip takes the newest that the index has.
WHEEL_PLATFORMS = ("manylinux_2_28_{arch}", "manylinux_2_27_{arch}", "manylinux_2_24_{arch}", "manylinux_2_17_{arch}")


def default_cache() -> Path:
    """LAB_CACHE, else the user's cache folder."""
    chosen = os.environ.get("LAB_CACHE")
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(chosen) / "edge" if chosen else (Path(base) if base else Path.home() / ".cache") / "lab" / "edge"


def build_edge(arch: Arch, cache: Path | None = None) -> Path:
    """Build the program and the library for an architecture, or find them built; returns their folder.

    Raises:
        MissingToolError: no compiler, or the wheels of that architecture are not here and cannot be downloaded.
    """
    cache = cache or default_cache()
    compiler = toolchain().compiler(arch)
    folder = cache / f"runner-{arch}-{_digest(arch, compiler)}"
    with _locked(cache):
        if not folder.exists():
            package_root = _package_root(arch, cache)
            say(f"building {PROGRAM} and {LIBRARY} for {arch} with {Path(compiler).name}")
            with atomic_dir(folder) as temporary:
                _compile(compiler, package_root, temporary)
    return folder


def build_runner(arch: Arch, cache: Path | None = None) -> Path:
    """`build_edge`; returns the program's path, its libraries beside it."""
    return build_edge(arch, cache) / PROGRAM


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """Two processes that need the same build: one builds, the other waits and finds it."""
    with storage_errors("opening the cache of edge runners", cache):
        cache.mkdir(parents=True, exist_ok=True)
        lock = (cache / ".lock").open("w")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _digest(arch: Arch, compiler: str) -> str:
    """Everything that the built folder depends on."""
    hasher = hashlib.sha256()
    compiler_version = capture([compiler, "--version"])
    for part in (arch, compiler_version, *FLAGS, *(f"{name}=={_installed(name)}" for name in TVM_LIBRARIES)):
        hasher.update(part.encode() + b"\0")
    for path in sorted([*SOURCES.glob("*.cc"), *SOURCES.glob("*.h")]):
        hasher.update(path.name.encode() + b"\0" + path.read_bytes())
    return hasher.hexdigest()[:16]


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError as error:
        raise MissingToolError(
            f"{package} is not installed",
            hint="make setup, or pip install -c constraints.txt '.[runtime]' in the lab's folder",
        ) from error


def _compile(compiler: str, package_root: Path, folder: Path) -> None:
    """Compile and link into `folder`, with TVM's libraries. Raises LabError with the compiler's words."""
    for library in TVM_LIBRARIES.values():
        shutil.copy2(package_root / library, folder)
    shutil.copy2(SOURCES / HEADER, folder)
    with tempfile.TemporaryDirectory() as objects, ThreadPoolExecutor(host.num_cores()) as pool:
        include = ["-isystem", str(package_root / HEADERS)]
        built = {source.name: f"{objects}/{source.stem}.o" for source in SOURCES.glob("*.cc")}
        jobs = [[compiler, *FLAGS, *include, "-c", str(SOURCES / name), "-o", path] for name, path in built.items()]
        list(pool.map(_run_compiler, sorted(jobs)))
        whole = sorted(path for name, path in built.items() if name not in PROGRAM_PARTS)
        program = [built[name] for name in (*PROGRAM_PARTS, *PARTS_OF_BOTH)]
        # --no-as-needed: nothing refers to libtvm_runtime by symbol, it registers itself when it is loaded.
        tvm = [f"-L{folder}", "-Wl,--no-as-needed", "-ltvm_runtime", "-ltvm_ffi", "-Wl,-rpath,$ORIGIN"]
        shared = ["-shared", "-Wl,--exclude-libs,ALL", f"-Wl,-soname,{LIBRARY}"]
        _run_compiler([compiler, "-s", *shared, *whole, *tvm, "-o", str(folder / LIBRARY)])
        # -rpath-link: the program names liblab.so alone; TVM's libraries are found through it.
        lab = [f"-L{folder}", "-llab", f"-Wl,-rpath-link,{folder}", "-Wl,-rpath,$ORIGIN"]
        _run_compiler([compiler, "-s", *program, *lab, "-o", str(folder / PROGRAM)])


def _run_compiler(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise LabError("building the edge runner failed", got=done.stderr[-3000:], expected=f"{command[0]} to succeed")


def _package_root(arch: Arch, cache: Path) -> Path:
    """The folder that holds `tvm/` and `tvm_ffi/` of an architecture: site-packages, or unpacked wheels."""
    if arch == host.cpu_arch():
        _installed("apache-tvm-ffi")
        return Path(str(distribution("apache-tvm").locate_file("")))
    names = "-".join(_installed(package) for package in TVM_LIBRARIES)
    folder = cache / f"wheels-{arch}-{names}"
    if not folder.exists():
        with atomic_dir(folder) as temporary:
            _download(arch, temporary)
    return folder


def _download(arch: Arch, folder: Path) -> None:
    """Fetch the wheels with the machine's own pip configuration and unpack what a runner needs."""
    requirements = [f"{package}=={_installed(package)}" for package in TVM_LIBRARIES]
    say(f"downloading {' and '.join(requirements)} for {arch} (about 100 MB, once)")
    with tempfile.TemporaryDirectory() as wheels:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--dest",
            wheels,
        ]
        for platform in WHEEL_PLATFORMS:
            command += ["--platform", platform.format(arch=arch)]
        done = subprocess.run([*command, *requirements], capture_output=True, text=True)
        if done.returncode:
            raise MissingToolError(
                f"the TVM runtime for {arch} is not here and cannot be downloaded",
                got=done.stderr.strip()[-1500:],
                expected=f"wheels of {', '.join(requirements)} for {arch}",
                hint=f"run this once with a package index in reach, or fill {folder.parent} from a machine that did",
            )
        for wheel in Path(wheels).glob("*.whl"):
            _unpack(wheel, folder)


def _unpack(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name in TVM_LIBRARIES.values() or name.startswith(HEADERS):
                archive.extract(name, folder)
