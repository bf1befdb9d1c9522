"""Which variant a request goes to.

Assignment is by weighted rendezvous hashing: each variant draws -weight / log(u), with u from a keyed hash of (salt,
unit, variant), and the highest draw wins. Shares are exactly weight / sum of weights, a unit keeps its variant for as
long as no weight changes, and when one variant's weight grows, units move to that variant and between no others. (With
cumulative intervals over one hash the last holds for two variants only.)

Source: Thaler and Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM ToN 1998; the weighted form:
Schindelhauer and Schomaker, "Weighted distributed hash tables", SPAA 2005.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate
from math import log
from typing import Literal

from lab.core.errors import DataError

Reason = Literal["weight", "sticky", "target"]
# 52 bits and a half step: strictly between 0 and 1 in float64, so that the logarithm is neither 0 nor infinite.
_UNUSED_BITS, _HALF_STEP, _SPACE = 12, 0.5, 2.0**52


class NoTrafficError(DataError):
    """Every variant's weight is 0."""


@dataclass(frozen=True)
class Assignment:
    """`index` of the variant; `share` is what its weight gave it at this moment; `unit_hash` is 0 without a unit."""

    index: int
    reason: Reason
    share: float
    unit_hash: int = 0


class Router:
    """A table of variants and their weights; a changed weight makes a new table.

    Args:
        names: of the production variants, in the endpoint's order.
        weights: any non-negative numbers.
    """

    def __init__(self, salt: str, names: Sequence[str], weights: Sequence[float]) -> None:
        self.names = tuple(names)
        total = float(sum(weights))
        self.shares = tuple(weight / total if total > 0 else 0.0 for weight in weights)
        self._cumulative = list(accumulate(self.shares))
        self._index = {name: index for index, name in enumerate(self.names)}
        # blake2b takes keys of up to 64 bytes.
        self._salt = blake2b(salt.encode(), digest_size=32).digest()
        self._keys = [blake2b(name.encode(), key=self._salt, digest_size=32).digest() for name in self.names]
        self._alive = [index for index, share in enumerate(self.shares) if share > 0]

    def route(self, unit: str | None = None, target: str | None = None) -> Assignment:
        """The variant of one request.

        Args:
            unit: id of whoever must stay with one variant; None draws by lot.
            target: name of the variant the caller insists on, whatever its weight.

        Raises:
            DataError: there is no such variant.
            NoTrafficError: every weight is 0.
        """
        if target is not None:
            return Assignment(self._named(target), "target", self.shares[self._named(target)])
        if not self._alive:
            raise NoTrafficError("no variant takes traffic", got="all weights are 0")
        if unit is None:
            index = self._by_lot()
            return Assignment(index, "weight", self.shares[index])
        encoded = unit.encode("utf-8", "surrogateescape")
        index = self._of_unit(encoded)
        return Assignment(index, "sticky", self.shares[index], self.unit_hash(encoded))

    def unit_hash(self, unit: bytes) -> int:
        """63 bits that stand for the unit in logs and tests, so that ids themselves are not kept."""
        return int.from_bytes(blake2b(unit, key=self._salt, digest_size=8).digest(), "little") >> 1

    def _named(self, target: str) -> int:
        index = self._index.get(target)
        if index is None:
            raise DataError(f"there is no variant '{target}'", expected=", ".join(self.names))
        return index

    def _by_lot(self) -> int:
        drawn = bisect_right(self._cumulative, random.random() * self._cumulative[-1])
        return drawn if drawn < len(self.shares) and self.shares[drawn] > 0 else self._alive[-1]

    def _of_unit(self, unit: bytes) -> int:
        if len(self._alive) == 1:
            return self._alive[0]
        best, best_draw = self._alive[0], -1.0
        for index in self._alive:
            number = int.from_bytes(blake2b(unit, key=self._keys[index], digest_size=8).digest(), "little")
            draw = -self.shares[index] / log(((number >> _UNUSED_BITS) + _HALF_STEP) / _SPACE)
            if draw > best_draw:
                best, best_draw = index, draw
        return best
