"""Any number of samples over any compiled batch sizes: nothing lost, nothing twice, order kept, no needless work."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lab.runtime.batching import Chunk, plan, take

SIZES = st.lists(st.integers(1, 17), min_size=1, max_size=4, unique=True)


@given(num_samples=st.integers(1, 200), sizes=SIZES)
def test_a_plan_covers_every_sample_once_and_in_order(num_samples: int, sizes: list[int]) -> None:
    chunks = plan(num_samples, tuple(sizes))
    covered = [i for chunk in chunks for i in range(chunk.start, chunk.start + chunk.num_samples)]
    assert covered == list(range(num_samples))
    assert all(0 < chunk.num_samples <= chunk.batch_size and chunk.batch_size in sizes for chunk in chunks)


@given(num_samples=st.integers(1, 40), sizes=SIZES)
def test_a_plan_computes_as_few_samples_as_possible(num_samples: int, sizes: list[int]) -> None:
    totals = {0}
    for _ in range(num_samples):
        totals |= {total + size for total in totals for size in sizes if total < num_samples}
    fewest = min(total for total in totals if total >= num_samples)
    assert sum(chunk.batch_size for chunk in plan(num_samples, tuple(sizes))) == fewest


def test_fewer_calls_win_among_equals() -> None:
    assert plan(8, (1, 4)) == (Chunk(0, 4, 4), Chunk(4, 4, 4))
    assert plan(6, (1, 4)) == (Chunk(0, 4, 4), Chunk(4, 1, 1), Chunk(5, 1, 1))
    assert plan(3, (4,)) == (Chunk(0, 3, 4),)


def test_a_call_that_costs_more_than_padding_is_not_made() -> None:
    assert plan(315, (5, 320), per_call=5) == (Chunk(0, 315, 320),)
    assert plan(160, (5, 320), per_call=5)[0].batch_size == 5
    assert plan(165, (5, 320), per_call=5) == (Chunk(0, 165, 320),)
    assert plan(9, (5, 320), per_call=5) == (Chunk(0, 5, 5), Chunk(5, 4, 5))


def test_take_slices_pads_and_leaves_the_rest() -> None:
    arrays = {"x": np.arange(10).reshape(5, 2), "y": np.arange(10).reshape(2, 5), "constant": np.arange(3)}
    part = take(arrays, {"x": 0, "y": 1}, Chunk(3, 2, 4))
    np.testing.assert_array_equal(part["x"], [[6, 7], [8, 9], [0, 0], [0, 0]])
    np.testing.assert_array_equal(part["y"], [[3, 4, 0, 0], [8, 9, 0, 0]])
    np.testing.assert_array_equal(part["constant"], [0, 1, 2])
    assert all(array.flags.c_contiguous for array in part.values())
