"""Random streams that depend on what they are for, not on how much randomness was drawn before.

A stream named by (seed, epoch, index) can be recreated at any point, which is what makes a resumed run equal to an
uninterrupted one.
"""

from __future__ import annotations

import hashlib

import numpy as np


def stream_seed(seed: int, *names: int | str) -> int:
    """A 63-bit seed derived from `seed` and the names; equal inputs give equal seeds on every platform."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def stream(seed: int, *names: int | str) -> np.random.Generator:
    """A numpy generator for one purpose, e.g. `stream(seed, "shuffle", epoch)`."""
    return np.random.default_rng(stream_seed(seed, *names))
