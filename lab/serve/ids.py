"""Inference ids: they say which variant answered whom, so that an outcome sent later finds its request without a store.

    <variant>.<unit hash>.<flags>.<random>.<check>

The check is a keyed hash: a client can send an id back, but not make one up for a variant of its choice.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from hashlib import blake2b
from hmac import compare_digest

from lab.core.errors import DataError

_PINNED, _STICKY = 1, 2
_CHECK_BYTES = 8


@dataclass(frozen=True)
class Origin:
    """What an inference id tells."""

    variant: str
    unit_hash: int
    pinned: bool
    sticky: bool


def make_id(key: bytes, origin: Origin) -> str:
    """An id that `read_id` understands."""
    flags = _PINNED * origin.pinned + _STICKY * origin.sticky
    # Without a unit every request is a unit of its own.
    unit = origin.unit_hash or random.getrandbits(63)
    # What must not be guessed is the key; this part only tells requests of one unit apart.
    text = f"{origin.variant}.{unit:x}.{flags}.{random.getrandbits(48):x}"
    return f"{text}.{_check(key, text)}"


def read_id(key: bytes, text: str) -> Origin:
    """Raises DataError when the id was not made here."""
    body, _, check = text.rpartition(".")
    parts = body.split(".")
    if len(parts) != 4 or not check.isascii() or not compare_digest(check, _check(key, body)):
        raise DataError("the inference id was not given by this endpoint", got=text[:120])
    flags = int(parts[2])
    return Origin(parts[0], int(parts[1], 16), bool(flags & _PINNED), bool(flags & _STICKY))


def _check(key: bytes, text: str) -> str:
    return blake2b(text.encode("utf-8", "replace"), key=key, digest_size=_CHECK_BYTES).hexdigest()
