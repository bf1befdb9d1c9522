"""Inputs of compiled code: always those of the call, copied again unless nobody can have changed them."""

from __future__ import annotations

from typing import Any

import numpy as np

from lab.runtime.batching import Chunk
from lab.runtime.slots import MAX_SLOTS, InputSlots


def make(array: np.ndarray) -> np.ndarray:
    """numpy's own arrays stand for tensors: they have `__dlpack__` too."""
    return array.copy()


def frozen(array: Any) -> np.ndarray:
    owned = np.array(array)
    owned.flags.writeable = False
    return owned


def test_a_changed_array_is_copied_again() -> None:
    slots, x = InputSlots(make), np.arange(3.0)
    first = slots.whole("x", x)
    x[0] = 7
    second = slots.whole("x", x)
    assert second is first
    np.testing.assert_array_equal(second, [7, 1, 2])


def test_rows_are_padded_with_zeros_whatever_was_there() -> None:
    slots, x = InputSlots(make), np.arange(10.0).reshape(2, 5)
    np.testing.assert_array_equal(slots.rows("x", x, 1, Chunk(0, 4, 4)), x[:, :4])
    np.testing.assert_array_equal(slots.rows("x", x, 1, Chunk(3, 2, 4)), [[3, 4, 0, 0], [8, 9, 0, 0]])
    np.testing.assert_array_equal(slots.rows("x", x, 0, Chunk(1, 1, 3))[:, 0], [5, 0, 0])


def test_what_cannot_change_is_copied_once() -> None:
    slots, x = InputSlots(make), frozen([[1.0], [2.0], [3.0]])
    tensor = slots.rows("x", x, 0, Chunk(0, 2, 2))
    tensor[...] = -1  # nobody does: it shows whether the array is copied
    np.testing.assert_array_equal(slots.rows("x", x, 0, Chunk(0, 2, 2)), [[-1], [-1]])
    np.testing.assert_array_equal(slots.rows("x", x, 0, Chunk(1, 2, 2)), [[2], [3]])
    np.testing.assert_array_equal(slots.rows("x", x, 0, Chunk(0, 2, 2)), [[1], [2]])
    np.testing.assert_array_equal(slots.rows("x", frozen([[5.0], [6.0]]), 0, Chunk(0, 2, 2)), [[5], [6]])


def test_a_chunk_of_another_length_is_another_content() -> None:
    slots, x = InputSlots(make), frozen([[1.0], [2.0], [3.0]])
    np.testing.assert_array_equal(slots.rows("x", x, 0, Chunk(0, 2, 3)), [[1], [2], [0]])
    np.testing.assert_array_equal(slots.rows("x", x, 0, Chunk(0, 3, 3)), x)
    np.testing.assert_array_equal(slots.whole("x", x), x)


def test_read_only_views_of_writable_memory_are_copied_again() -> None:
    slots, memory = InputSlots(make), np.zeros(2)
    view = memory[:]
    view.flags.writeable = False
    slots.whole("x", view)
    memory[0] = 3
    np.testing.assert_array_equal(slots.whole("x", view), [3, 0])


def test_an_array_made_writable_again_is_copied_again() -> None:
    slots, x = InputSlots(make), frozen([1.0, 2.0])
    slots.whole("x", x)
    x.flags.writeable = True
    x[0] = 9
    np.testing.assert_array_equal(slots.whole("x", x), [9, 2])


def test_memory_for_shapes_is_bounded() -> None:
    slots = InputSlots(make)
    for size in range(1, 2 * MAX_SLOTS):
        np.testing.assert_array_equal(slots.whole("x", np.full(size, size)), np.full(size, size))
        assert len(slots._slots) <= MAX_SLOTS
