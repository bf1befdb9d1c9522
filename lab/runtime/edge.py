"""The edge runner `lab_run`: built for this machine or cross-built for ARM, and run natively or under qemu.

Beside the program lie only `libtvm_runtime.so` and `libtvm_ffi.so`, from the installed wheels or, for another
architecture, from the same versions' wheels of that architecture. Builds are kept in a cache, named by their content.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import cast

import numpy as np

from lab.artifacts.files import atomic_dir, storage_errors
from lab.artifacts.manifest import MAIN, Manifest, TargetInfo
from lab.core import errors, host
from lab.core.errors import ArtifactError, IncompatibleError, LabError, MissingToolError
from lab.core.progress import say
from lab.runtime.toolchain import COMPILERS, Arch, capture, emulation, toolchain
from lab.runtime.tvm_runner import function_of

SOURCES = Path(__file__).parent / "cpp"
LIBRARIES = {"apache-tvm": "tvm/lib/libtvm_runtime.so", "apache-tvm-ffi": "tvm_ffi/lib/libtvm_ffi.so"}
HEADERS = "tvm_ffi/include/"
FLAGS = ("-std=c++17", "-O2", "-Wall", "-Wextra")
# The tags the two wheels carry; pip takes the newest that the index has.
WHEEL_PLATFORMS = ("manylinux_2_28_{arch}", "manylinux_2_27_{arch}", "manylinux_2_24_{arch}", "manylinux_2_17_{arch}")
# Exit codes of lab_run (enum Kind in cpp/error.h), the same as the command line's; anything else is a LabError.
ERRORS: dict[int, type[LabError]] = {
    2: errors.ConfigError,
    3: errors.DataError,
    4: errors.ArtifactError,
    5: errors.IntegrityError,
    6: errors.IncompatibleError,
    7: errors.UnsupportedError,
    10: errors.StorageError,
}


def default_cache() -> Path:
    """LAB_CACHE, else the user's cache folder."""
    chosen = os.environ.get("LAB_CACHE")
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(chosen) / "edge" if chosen else (Path(base) if base else Path.home() / ".cache") / "lab" / "edge"


def build_runner(arch: Arch, cache: Path | None = None) -> Path:
    """Build `lab_run` for an architecture, or find it built; returns the program's path, its libraries beside it.

    Raises:
        MissingToolError: no compiler, or the wheels of that architecture are not here and cannot be downloaded.
    """
    cache = cache or default_cache()
    compiler = toolchain().compiler(arch)
    folder = cache / f"runner-{arch}-{_digest(arch, compiler)}"
    with _locked(cache):
        if not folder.exists():
            package_root = _package_root(arch, cache)
            say(f"building lab_run for {arch} with {Path(compiler).name}")
            with atomic_dir(folder) as temporary:
                _compile(compiler, package_root, temporary)
    return folder / "lab_run"


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
    for part in (arch, compiler_version, *FLAGS, *(f"{name}=={_installed(name)}" for name in LIBRARIES)):
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
    """Compile and link `lab_run` into `folder`, with its libraries. Raises LabError with the compiler's words."""
    for library in LIBRARIES.values():
        shutil.copy2(package_root / library, folder)
    with tempfile.TemporaryDirectory() as objects, ThreadPoolExecutor(host.num_cores()) as pool:
        include = ["-isystem", str(package_root / HEADERS)]
        built = {source: f"{objects}/{source.stem}.o" for source in SOURCES.glob("*.cc")}
        jobs = [[compiler, *FLAGS, *include, "-c", str(source), "-o", path] for source, path in sorted(built.items())]
        list(pool.map(_run_compiler, jobs))
        # --no-as-needed: nothing refers to libtvm_runtime by symbol, it registers itself when it is loaded.
        libraries = [f"-L{folder}", "-Wl,--no-as-needed", "-ltvm_runtime", "-ltvm_ffi", "-Wl,-rpath,$ORIGIN"]
        _run_compiler([compiler, "-s", *sorted(built.values()), *libraries, "-o", str(folder / "lab_run")])


def _run_compiler(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise LabError("building lab_run failed", got=done.stderr[-3000:], expected=f"{command[0]} to succeed")


def _package_root(arch: Arch, cache: Path) -> Path:
    """The folder that holds `tvm/` and `tvm_ffi/` of an architecture: site-packages, or unpacked wheels."""
    if arch == host.cpu_arch():
        _installed("apache-tvm-ffi")
        return Path(str(distribution("apache-tvm").locate_file("")))
    names = "-".join(_installed(package) for package in LIBRARIES)
    folder = cache / f"wheels-{arch}-{names}"
    if not folder.exists():
        with atomic_dir(folder) as temporary:
            _download(arch, temporary)
    return folder


def _download(arch: Arch, folder: Path) -> None:
    """Fetch the wheels with the machine's own pip configuration and unpack what a runner needs."""
    requirements = [f"{package}=={_installed(package)}" for package in LIBRARIES]
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
            if name in LIBRARIES.values() or name.startswith(HEADERS):
                archive.extract(name, folder)


def run_bundle(
    bundle: Path,
    inputs: Mapping[str, np.ndarray],
    *,
    arch: Arch | None = None,
    emulate: bool = True,
    cache: Path | None = None,
    num_threads: int | None = None,
    function: str = MAIN,
) -> dict[str, np.ndarray]:
    """Run a bundle once in `lab_run`, however many samples the inputs hold; `arch` defaults to the bundle's.

    Raises:
        MissingToolError: no compiler or emulator, or `emulate` is false and the bundle is for another architecture.
        LabError: whatever `lab_run` reports, as the error of its kind.
    """
    target = _cpu_target(bundle)
    arch = arch or cast(Arch, target.arch)
    if not emulate and arch != host.cpu_arch():
        raise MissingToolError(f"{arch} programs need emulation on this {host.cpu_arch()} machine", hint="emulate=True")
    prefix = emulation(arch, target.mcpu)
    program = build_runner(arch, cache)
    with tempfile.TemporaryDirectory() as scratch:
        command = [*prefix, str(program), str(bundle), "--function", function, "--output-dir", f"{scratch}/out"]
        command += ["--threads", str(num_threads)] if num_threads else []
        for index, (name, array) in enumerate(inputs.items()):
            np.save(f"{scratch}/{index}.npy", np.ascontiguousarray(array), allow_pickle=False)
            command += ["--input", f"{name}={scratch}/{index}.npy"]
        _call(command)
        return {path.stem: np.load(path, allow_pickle=False) for path in sorted(Path(scratch, "out").glob("*.npy"))}


def _cpu_target(bundle: Path) -> TargetInfo:
    target = Manifest.load(bundle, verify=False).target
    if target is None or target.arch not in COMPILERS:
        raise ArtifactError(
            f"lab_run is not built for the target of {bundle}", got=target, expected=" or ".join(COMPILERS)
        )
    return target


def _call(command: list[str]) -> str:
    """Run lab_run; a non-zero exit becomes the lab's error of that kind."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == -signal.SIGILL:
        raise IncompatibleError(
            "lab_run met an instruction that this CPU lacks", hint="compile for the CPU that is meant"
        )
    if done.returncode < 0:
        raise LabError(f"lab_run was ended by {signal.Signals(-done.returncode).name}", got=done.stderr.strip() or None)
    if done.returncode:
        text = done.stderr.strip().removeprefix("lab_run: ")
        raise ERRORS.get(done.returncode, LabError)(f"lab_run failed: {text}")
    return done.stdout


class EmulatedRunner:
    """A bundle as a Runner that starts `lab_run` for every call: natively where possible, else under qemu-user.

    Emulated time says nothing about the device; use this for parity only.

    Raises on opening:
        MissingToolError: no compiler, emulator or TVM runtime of that architecture, and none to be had.
        IntegrityError: a file of the bundle is not the one its manifest records.
    """

    def __init__(
        self, bundle: Path, *, cache: Path | None = None, num_threads: int | None = None, function: str = MAIN
    ) -> None:
        manifest = Manifest.load(bundle)
        self.bundle = bundle
        self.function = function
        self.signature = function_of(manifest, function)
        target = _cpu_target(bundle)
        self.name = f"tvm-{target.kind}-{'edge' if target.arch == host.cpu_arch() else 'qemu'}"
        self.num_threads = num_threads
        self._cache = cache
        emulation(target.arch, target.mcpu)
        build_runner(cast(Arch, target.arch), cache)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once; inputs and outputs are checked against the signature."""
        self.signature.check_inputs(inputs)
        outputs = run_bundle(
            self.bundle, inputs, cache=self._cache, num_threads=self.num_threads, function=self.function
        )
        self.signature.check_outputs(outputs)
        return {spec.name: outputs[spec.name] for spec in self.signature.outputs}

    def close(self) -> None:
        """Nothing stays open between calls."""
