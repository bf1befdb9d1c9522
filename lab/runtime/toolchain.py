"""The tools that build and run a program for this machine or for ARM: C++ compilers and qemu-user."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lab.core import host
from lab.core.errors import MissingToolError
from lab.core.progress import say

Arch = Literal["aarch64", "x86_64"]

COMPILERS: dict[Arch, tuple[str, ...]] = {
    "aarch64": ("aarch64-linux-gnu-g++",),
    "x86_64": ("x86_64-linux-gnu-g++",),
}
SETUP_ARM = "make setup-arm (installs the ARM cross-compiler and qemu-user from the distribution)"


@dataclass(frozen=True)
class Toolchain:
    """Paths of the tools found, None where there is none."""

    host_compiler: str | None
    arm_compiler: str | None
    qemu_arm: str | None
    arm_sysroot: str | None

    def compiler(self, arch: Arch) -> str:
        """Raises MissingToolError."""
        native = arch == host.cpu_arch()
        found = self.host_compiler if native else self.arm_compiler if arch == "aarch64" else _which(*COMPILERS[arch])
        if found is None:
            hint = "install g++ from your distribution" if native else SETUP_ARM
            raise MissingToolError(f"no C++ compiler for {arch}", expected=" or ".join(COMPILERS[arch]), hint=hint)
        return found


def toolchain() -> Toolchain:
    """The compilers and the emulator on PATH; CXX names another host compiler."""
    sysroot = Path("/usr/aarch64-linux-gnu")
    return Toolchain(
        host_compiler=_which(*filter(None, [os.environ.get("CXX")]), "g++", "clang++", "c++"),
        arm_compiler=_which(*COMPILERS["aarch64"]),
        qemu_arm=_which("qemu-aarch64-static", "qemu-aarch64"),
        arm_sysroot=str(sysroot) if (sysroot / "lib").is_dir() else None,
    )


def _which(*names: str) -> str | None:
    return next((path for path in map(shutil.which, names) if path), None)


def emulation(arch: str, mcpu: str = "") -> list[str]:
    """What to put before a command so that a program of `arch` runs here; empty when it runs natively.

    The CPU model `mcpu` is emulated where qemu knows it, so that an instruction it lacks fails here as on the device.

    Raises:
        MissingToolError: no emulator, or no C library of that architecture.
    """
    if arch == host.cpu_arch():
        return []
    tools = toolchain()
    if arch != "aarch64" or tools.qemu_arm is None or tools.arm_sysroot is None:
        raise MissingToolError(f"{arch} programs cannot run on this {host.cpu_arch()} machine", hint=SETUP_ARM)
    models = capture([tools.qemu_arm, "-cpu", "help"], check=False).split()  # it prints, and exits with 1
    if mcpu and mcpu not in models:
        say(f"qemu does not know the CPU {mcpu}: emulating one with every feature")
    return [tools.qemu_arm, "-L", tools.arm_sysroot, "-cpu", mcpu if mcpu in models else "max"]


def capture(command: list[str], *, check: bool = True) -> str:
    """Standard output of a command; CalledProcessError when it fails, unless `check` is off."""
    return subprocess.run(command, check=check, capture_output=True, text=True).stdout
