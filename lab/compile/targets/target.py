"""What a target is: one frozen entry from which code generation, linking and load-time checks follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lab.artifacts.manifest import TargetInfo
from lab.compile.targets.machine import Machine
from lab.core import host
from lab.core.errors import ConfigError

Layout = Literal["NHWC", "NCHW"]
HALF_TOLERANCE = 2e-2
"""Halves round at 5e-4; a network's layers add up to tens of that. Its predictions are compared besides."""
INT8_TOLERANCE = 0.2
"""A number that lies between two 8-bit steps falls to either side; a network's layers add up to tens of steps."""


@dataclass(frozen=True)
class Target:
    """One machine to compile for.

    `tvm` is TVM's description of it, `linker` the program that links the library (None: this machine's), `rules` the
    schedule table, `tolerance` the largest absolute error of logits against ONNX Runtime that counts as equal.
    """

    spec: TargetInfo
    tvm: Mapping[str, Any]
    machine: Machine
    rules: Literal["cpu", "gpu"] = "cpu"
    layout: Layout = "NHWC"
    linker: str | None = None
    linker_hint: str = ""
    tolerance: float = 1e-4
    tvm_host: Mapping[str, Any] = field(default_factory=dict)
    levels: tuple[Target, ...] = ()
    """Of a fat target, the best first: each is compiled for, and one is picked when the bundle is loaded."""

    def with_precision(self, precision: str) -> Target:
        """This target computing in `precision`.

        Raises:
            ConfigError: it gains nothing there, so there are no kernels for it.
        """
        if precision == self.spec.precision:
            return self
        known = {"float16": HALF_TOLERANCE} if self.kind == "cuda" else {}
        if self.machine.has_dot_product:
            known["int8"] = INT8_TOLERANCE
        if precision not in known:
            lacking = f"{self.spec.mcpu or self.name} has no 8-bit dot-product instruction; name a CPU that has one, "
            raise ConfigError(
                f"no kernels of precision {precision} for {self.name}", got=precision,
                expected=" or ".join(["float32", *known]),
                hint=lacking + "e.g. x86:znver4 or x86:icelake-server" if precision == "int8" else None,
            )  # fmt: skip
        spec = replace(self.spec, name=f"{self.name}+{precision}", precision=precision)
        levels = tuple(level.with_precision(precision) for level in self.levels)
        return replace(self, spec=spec, tolerance=known[precision], levels=levels)

    def with_threads(self, num_threads: int | None) -> Target:
        """This target with schedules for so many threads; None leaves the number that targets of this kind assume."""
        if num_threads is None or self.rules != "cpu":
            return self
        spec, machine = replace(self.spec, num_threads=num_threads), replace(self.machine, num_cores=num_threads)
        levels = tuple(level.with_threads(num_threads) for level in self.levels)
        return replace(self, spec=spec, machine=machine, levels=levels)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def kind(self) -> Literal["x86", "arm", "cuda"]:
        return self.spec.kind

    def info(self) -> TargetInfo:
        """What the manifest of a bundle records."""
        return self.spec

    def describe(self) -> str:
        """The machine in words, for a status line."""
        if self.kind == "cuda":
            return f"NVIDIA {self.spec.cuda_arch}, {self.spec.precision}, host {self.spec.arch}"
        if self.levels:
            return " or ".join(level.describe() for level in self.levels)
        bits = self.machine.num_lanes * 32
        return f"{self.spec.arch}, {self.spec.mcpu}, {bits}-bit vectors"

    def runnable_here(self) -> tuple[bool, str]:
        """Whether a bundle for this target runs on this machine, and if not, why."""
        if self.spec.arch != host.cpu_arch():
            return False, f"built for {self.spec.arch}, this machine is {host.cpu_arch()}"
        missing = sorted(set(self.spec.required_features) - host.cpu_features())
        if missing:
            return False, f"this CPU lacks {', '.join(missing)}"
        if self.spec.kind == "cuda" and not has_gpu():
            return False, "this machine has no CUDA device"
        return True, ""

    def to_tvm(self) -> Any:
        """The `tvm.target.Target`; imports TVM."""
        import tvm

        if self.tvm_host:
            return tvm.target.Target(dict(self.tvm), host=dict(self.tvm_host))
        return tvm.target.Target(dict(self.tvm))


def has_gpu() -> bool:
    """Whether the CUDA driver offers a device to this process."""
    return cuda_arch_here() is not None


def cuda_arch_here() -> str | None:
    """ "sm_90" for the first CUDA device of this machine, or None."""
    import ctypes

    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return None
    driver.cuDeviceGetAttribute(ctypes.byref(major), 75, device)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
    driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
    return f"sm_{major.value}{minor.value}"
