"""Which processor trains, in which precision, and why."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from lab.config.run import TrainConfig
from lab.core.errors import ConfigError, MissingToolError
from lab.core.host import cpu_arch, cpu_features, cpu_name, num_cores
from lab.core.progress import warn
from lab.train.distributed import local_world_size, world_size

Precision = Literal["float32", "bfloat16", "float16"]

# Matrix products in bfloat16 run in hardware with any of these (x86: AVX-512 BF16, AMX; ARM: BF16 extension).
BFLOAT16_FEATURES = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16"})
LIGHTNING_PRECISION = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}


@dataclass(frozen=True)
class Device:
    """The processor that trains. `devices` counts processes on this machine, `num_nodes` machines."""

    accelerator: Literal["cpu", "gpu"]
    devices: int
    num_nodes: int
    precision: Precision
    num_threads: int
    name: str
    why: str

    @property
    def lightning_precision(self) -> str:
        return LIGHTNING_PRECISION[self.precision]

    def __str__(self) -> str:
        processes = f", {self.devices * self.num_nodes} processes" if self.devices * self.num_nodes > 1 else ""
        threads = f", {self.num_threads} threads" if self.accelerator == "cpu" else ""
        return f"{self.accelerator.upper()} {self.name}{threads}{processes}, {self.precision}"


def choose_device(config: TrainConfig) -> Device:
    """The processor for a configuration on this machine.

    Raises:
        MissingToolError: a GPU was asked for and there is none.
        ConfigError: several devices were asked for without torchrun.
    """
    _check_processes(config)
    has_gpu = torch.cuda.is_available()
    if config.device == "gpu" and not has_gpu:
        raise MissingToolError(
            "the configuration asks for a GPU and PyTorch sees none",
            got=f"torch {torch.__version__}, built for CUDA {torch.version.cuda}",
            hint="device: auto or cpu; on a GPU machine check nvidia-smi and that torch is a CUDA build (lab doctor)",
        )
    reason = {"auto": "device: auto", "gpu": "asked for", "cpu": "asked for"}[config.device]
    if has_gpu and config.device != "cpu":
        return _device(config, "gpu", config.precision, torch.cuda.get_device_name(), f"{reason}, a GPU is there")
    why = f"{reason}, PyTorch sees no GPU" if config.device == "auto" else reason
    return _device(config, "cpu", _cpu_precision(config.precision), cpu_name(), why)


def _device(
    config: TrainConfig, accelerator: Literal["cpu", "gpu"], precision: Precision, name: str, why: str
) -> Device:
    here = local_world_size()
    threads = config.num_threads or max(1, num_cores() // here)
    return Device(accelerator, here, world_size() // here, precision, threads, name, why)


def _check_processes(config: TrainConfig) -> None:
    if config.devices > 1 and world_size() == 1:
        raise ConfigError(
            "several devices need one process each",
            got=f"train.devices: {config.devices} in a single process",
            hint=f"torchrun --nproc-per-node {config.devices} -m lab.cli.main train CONFIG",
        )
    if world_size() > 1 and config.devices not in (1, local_world_size()):
        raise ConfigError(
            "train.devices differs from what torchrun started", got=config.devices, expected=local_world_size()
        )


def _cpu_precision(asked: Precision) -> Precision:
    """The precision a CPU trains in: bfloat16 only where it has the instructions, float16 never."""
    if asked == "float32":
        return asked
    has_bfloat16 = bool(BFLOAT16_FEATURES & cpu_features())
    if asked == "bfloat16" and has_bfloat16:
        return asked
    taken: Precision = "bfloat16" if has_bfloat16 else "float32"
    no_bfloat16 = f"this {cpu_arch()} CPU has no bfloat16 arithmetic"
    reason = "float16 trains on GPUs only" if asked == "float16" else no_bfloat16
    warn(f"precision {asked} was asked for, {taken} is used: {reason}")
    return taken


@contextmanager
def processor_settings(device: Device, config: TrainConfig) -> Iterator[None]:
    """Threads, determinism and kernel search for one training run; what was set before comes back after it."""
    threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    strict = torch.are_deterministic_algorithms_enabled()
    only_warn = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.set_num_threads(device.num_threads)
    if device.accelerator == "gpu":
        if config.deterministic:
            # cuBLAS reads this when its handle is created; it is what PyTorch's reproducibility notes ask for.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = not config.deterministic
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = benchmark
        torch.use_deterministic_algorithms(strict, warn_only=only_warn)
