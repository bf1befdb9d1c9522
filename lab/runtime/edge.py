"""The edge runner `lab_run` as a Runner: natively, or for another architecture under qemu."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np

from lab.artifacts.manifest import MAIN, Manifest, TargetInfo
from lab.core import errors, host
from lab.core.errors import ArtifactError, IncompatibleError, LabError, MissingToolError
from lab.runtime.edge_build import build_runner
from lab.runtime.toolchain import COMPILERS, Arch, emulation
from lab.runtime.tvm_runner import function_of

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
            np.save(f"{scratch}/{index}.npy", np.asarray(array, order="C"), allow_pickle=False)
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
