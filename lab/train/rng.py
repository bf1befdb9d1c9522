"""Global random states (torch, CUDA, numpy, Python): set, saved and protected."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from lab.core.seeding import stream_seed


def batch_seed(seed: int, epoch: int, batch_index: int, rank: int = 0) -> int:
    """The seed given to `LearningTask.on_device` for one training batch."""
    return stream_seed(seed, "batch", epoch, batch_index, rank)


def seed_everything(seed: int, rank: int = 0) -> None:
    """Seed every global generator; rank 0 takes `seed` itself, as a plain training loop would."""
    own = seed if rank == 0 else stream_seed(seed, "rank", rank)
    random.seed(own)
    np.random.seed(own % 2**32)
    torch.manual_seed(own)


def rng_state() -> dict[str, Any]:
    """All global states as tensors, numbers and tuples."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": (str(kind), torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, gauss),
        "python": random.getstate(),
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Continue all global states where `rng_state` read them."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    random.setstate(state["python"])


@contextmanager
def protected_rng() -> Iterator[None]:
    """What happens inside does not advance the CPU generators (a DataLoader draws a number when it starts)."""
    before, python, numpy = torch.get_rng_state(), random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        torch.set_rng_state(before)
        random.setstate(python)
        np.random.set_state(numpy)
