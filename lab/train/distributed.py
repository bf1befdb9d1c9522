"""Where this process stands among the processes of one training job, as torchrun tells it by environment."""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

from lab.core.errors import ConfigError


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdigit():
        raise ConfigError(f"the environment variable {name} is not a number", got=text, expected="set by torchrun")
    return int(text)


def world_size() -> int:
    """Processes in the whole job; 1 without torchrun."""
    return _number("WORLD_SIZE", 1)


def local_world_size() -> int:
    """Processes of the job on this machine."""
    return _number("LOCAL_WORLD_SIZE", 1)


def rank() -> int:
    """This process's number in the job, from 0."""
    return _number("RANK", 0)


def is_leader() -> bool:
    """Whether this process writes the files and tracks: rank 0."""
    return rank() == 0


def all_sum(values: Tensor) -> Tensor:
    """Sum a tensor over all processes; the tensor itself where there is one."""
    if world_size() > 1 and torch.distributed.is_initialized():
        torch.distributed.all_reduce(values)
    return values


def broadcast_buffers(module: nn.Module) -> None:
    """Give every process rank 0's buffers (batch-norm statistics), so that all evaluate the same model."""
    if world_size() > 1 and torch.distributed.is_initialized():
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, src=0)


def gather_objects(value: object) -> list[object]:
    """One small picklable value of every process, in the order of ranks."""
    if world_size() == 1 or not torch.distributed.is_initialized():
        return [value]
    gathered: list[object] = [None] * world_size()
    torch.distributed.all_gather_object(gathered, value)
    return gathered
