"""The order of samples in an epoch, as a pure function of seed and epoch."""

from __future__ import annotations

import numpy as np

from lab.core.errors import ConfigError
from lab.core.seeding import stream


def epoch_order(
    num_samples: int, seed: int, epoch: int, rank: int = 0, num_ranks: int = 1, shuffle: bool = True
) -> np.ndarray:
    """Indices (int64) that `rank` of `num_ranks` visits in an epoch.

    Shuffled, every rank gets the same number and up to num_ranks - 1 samples sit out, other ones each epoch. In order
    (evaluation), the ranks together visit every sample exactly once.

    Raises:
        ConfigError: rank outside 0..num_ranks-1.
    """
    if not 0 <= rank < num_ranks:
        raise ConfigError("no such rank", got=f"rank {rank} of {num_ranks}", expected=f"0..{num_ranks - 1}")
    if not shuffle:
        return np.arange(rank, num_samples, num_ranks, dtype=np.int64)
    order = stream(seed, "order", epoch).permutation(num_samples)
    return order[: num_samples - num_samples % num_ranks][rank::num_ranks].astype(np.int64)
