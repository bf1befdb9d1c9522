"""The order in which a stream's samples leave a bounded shuffle buffer, worked out without reading any of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_DRAWS = 4096


class WindowOrder:
    """A permutation of 0..num-1 in which the next one is always drawn from `size` that are at hand.

    What is at hand are the first ones, in order, that were not drawn yet. With `size` 1 the order is kept. The order is
    a function of `num`, `size` and the generator's state, so an iteration can be resumed by `skip`, with no data read.
    """

    def __init__(self, num: int, size: int, rng: np.random.Generator) -> None:
        self._num = num
        self._rng = rng
        self._slots = list(range(min(size, num)))
        self._next = len(self._slots)
        self._uniform = iter(())  # type: Iterator[float]

    def skip(self, count: int) -> None:
        """Go past the next `count`."""
        for _ in range(count):
            next(self)

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        if not self._slots:
            raise StopIteration
        slot = int(self._draw() * len(self._slots))
        found = self._slots[slot]
        if self._next < self._num:
            self._slots[slot] = self._next
            self._next += 1
        else:
            self._slots[slot] = self._slots[-1]
            self._slots.pop()
        return found

    def _draw(self) -> float:
        value = next(self._uniform, None)
        if value is None:
            self._uniform = iter(self._rng.random(_DRAWS).tolist())
            value = next(self._uniform)
        return value

    @property
    def at_hand(self) -> frozenset[int]:
        """Those from which the next one will be drawn."""
        return frozenset(self._slots)

    @property
    def first_unseen(self) -> int:
        """The first one that was never at hand."""
        return self._next
