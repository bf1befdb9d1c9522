"""64-bit ARM cores, cross-linked with the distribution's compiler."""

from __future__ import annotations

from lab.artifacts.manifest import TargetInfo
from lab.compile.targets.machine import Machine
from lab.compile.targets.target import Target
from lab.core import host
from lab.core.errors import ConfigError
from lab.core.tables import nearest

TRIPLE = "aarch64-linux-gnu"
DEFAULT = "cortex-a72"
ARMV8 = ("asimd", "fp")
ARMV8_2 = ("asimd", "asimddp", "asimdhp", "asimdrdm", "atomics", "fp", "fphp")


def _neon(l1_bytes: int, l2_bytes: int) -> Machine:
    return Machine(
        num_lanes=4, num_registers=32, l1_bytes=l1_bytes, l2_bytes=l2_bytes, num_cores=4, operands_from_memory=False,
        load_reach=4 * ((1 << 12) - 1),  # an unsigned offset of 12 bits, in units of the float32 it loads
    )  # fmt: skip


# Core -> what the kernel must report of it, and its caches (per core; Arm's technical reference manuals).
CORES: dict[str, tuple[tuple[str, ...], Machine]] = {
    "cortex-a53": (ARMV8, _neon(l1_bytes=32 << 10, l2_bytes=128 << 10)),
    "cortex-a72": (ARMV8, _neon(l1_bytes=32 << 10, l2_bytes=256 << 10)),
    "cortex-a76": (ARMV8_2, _neon(l1_bytes=64 << 10, l2_bytes=512 << 10)),
    "neoverse-n1": (ARMV8_2, _neon(l1_bytes=64 << 10, l2_bytes=1 << 20)),
}


def resolve(mcpu: str | None) -> Target:
    """The target for one of `CORES`. Raises ConfigError for another name."""
    chosen = mcpu or DEFAULT
    if chosen not in CORES:
        close = nearest(chosen, CORES)
        raise ConfigError(
            f"unknown ARM core '{chosen}'", expected=", ".join(f"arm:{core}" for core in CORES),
            hint=f"did you mean 'arm:{close}'?" if close else None,
        )  # fmt: skip
    required, machine = CORES[chosen]
    spec = TargetInfo(
        name=f"arm:{mcpu}" if mcpu else "arm", kind="arm", arch="aarch64", mcpu=chosen, triple=TRIPLE,
        required_features=required,
    )  # fmt: skip
    return Target(
        spec=spec,
        tvm={"kind": "llvm", "mtriple": TRIPLE, "mcpu": chosen},
        machine=machine,
        linker=None if host.cpu_arch() == "aarch64" else "aarch64-linux-gnu-gcc",
        linker_hint="make setup-arm",
    )
