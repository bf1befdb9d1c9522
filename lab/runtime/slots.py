"""Where compiled code reads its inputs on a CPU: the same memory from call to call, aligned as the code expects it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lab.runtime.batching import Chunk

MAX_SLOTS = 64


@dataclass
class _Slot:
    """A tensor, its memory as numpy sees it, and which rows of an array that cannot change it holds."""

    tensor: Any
    view: np.ndarray
    source: np.ndarray | None = None
    rows: tuple[int, int] = (0, 0)

    def has(self, array: np.ndarray, start: int, stop: int) -> bool:
        return self.source is array and self.rows == (start, stop) and not array.flags.writeable

    def remember(self, array: np.ndarray, start: int, stop: int) -> None:
        # A view's base may be writable though the view is not.
        frozen = array.flags.owndata and not array.flags.writeable
        self.source, self.rows = (array if frozen else None), (start, stop)


class InputSlots:
    """Tensors by name and shape, filled from arrays; filling one takes a fifteenth of the time of making one.

    Args:
        make: an array to a new tensor on the CPU.
    """

    def __init__(self, make: Callable[[np.ndarray], Any]) -> None:
        self._make = make
        self._slots: dict[tuple[str, tuple[int, ...]], _Slot] = {}

    def whole(self, name: str, array: np.ndarray) -> Any:
        """The tensor that holds `array`."""
        slot = self._slot(name, array.shape, array.dtype)
        if not slot.has(array, 0, -1):
            np.copyto(slot.view, array)
            slot.remember(array, 0, -1)
        return slot.tensor

    def rows(self, name: str, array: np.ndarray, axis: int, chunk: Chunk) -> Any:
        """The tensor that holds the chunk's samples along `axis`, and zeros behind them.

        An array that owns its memory and is read-only is copied once: so a loop passes what stays the same.
        """
        before, stop = (slice(None),) * axis, chunk.start + chunk.num_samples
        slot = self._slot(name, (*array.shape[:axis], chunk.batch_size, *array.shape[axis + 1 :]), array.dtype)
        if not slot.has(array, chunk.start, stop):
            slot.view[(*before, slice(chunk.num_samples))] = array[(*before, slice(chunk.start, stop))]
            slot.view[(*before, slice(chunk.num_samples, None))] = 0
            slot.remember(array, chunk.start, stop)
        return slot.tensor

    def clear(self) -> None:
        self._slots = {}

    def _slot(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> _Slot:
        slot = self._slots.get((name, shape))
        if slot is None:
            if len(self._slots) >= MAX_SLOTS:  # a service sees sequences of every length
                self._slots.clear()
            tensor = self._make(np.zeros(shape, dtype))
            slot = self._slots[name, shape] = _Slot(tensor, np.from_dlpack(tensor))
        return slot
