"""NVIDIA GPUs; code is generated also where no GPU is."""

from __future__ import annotations

import re

from lab.artifacts.manifest import TargetInfo
from lab.compile.targets.machine import Machine
from lab.compile.targets.target import Target, cuda_arch_here
from lab.core import host
from lab.core.errors import ConfigError

DEFAULT = "sm_90"
OLDEST, NEWEST = 70, 90
MULTIPROCESSORS = {"sm_70": 80, "sm_75": 40, "sm_80": 108, "sm_86": 84, "sm_87": 16, "sm_89": 58, "sm_90": 132}
"""Of the GPU that is met most with each capability in data centres and boards: V100, T4, A100, A10, Orin, L4, H100."""
SOME_MULTIPROCESSORS = 64


def resolve(arch: str | None) -> Target:
    """The target for one compute capability; without a name this machine's GPU, else `DEFAULT`.

    Raises:
        ConfigError: the name is not sm_70 ... sm_90.
    """
    chosen = arch or cuda_arch_here() or DEFAULT
    match = re.fullmatch(r"sm_(\d\d)", chosen)
    if arch is not None and (match is None or not OLDEST <= int(match[1]) <= NEWEST):
        raise ConfigError(f"unknown CUDA architecture '{chosen}'", expected=f"cuda:sm_{OLDEST} ... cuda:sm_{NEWEST}")
    cpu = host.cpu_arch()
    triple = f"{cpu}-linux-gnu"
    spec = TargetInfo(name=f"cuda:{arch}" if arch else "cuda", kind="cuda", arch=cpu, triple=triple, cuda_arch=chosen)
    return Target(
        spec=spec,
        tvm={"kind": "cuda", "arch": chosen},
        tvm_host={"kind": "llvm", "mtriple": triple},
        machine=Machine(num_lanes=32, num_registers=255, num_cores=MULTIPROCESSORS.get(chosen, SOME_MULTIPROCESSORS)),
        rules="gpu",
        layout="NHWC",
        tolerance=1e-3,
    )
