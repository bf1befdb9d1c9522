from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lab.core.compare import difference


def test_finds_the_worst_element() -> None:
    expected = np.arange(6.0).reshape(2, 3)
    actual = expected.copy()
    actual[1, 0] += 0.5
    gap = difference(expected, actual)
    assert (gap.max_abs, gap.index, gap.expected_value, gap.actual_value) == (0.5, (1, 0), 3.0, 3.5)
    assert gap.max_rel == 0.1
    assert "at [1, 0]" in str(gap)


def test_shape_mismatch_and_one_sided_nan_are_infinite() -> None:
    assert difference(np.zeros(3), np.zeros(2)).max_abs == np.inf
    assert difference(np.zeros(3), np.array([0.0, np.nan, 0.0])).max_abs == np.inf
    assert difference(np.array([np.inf, 1.0]), np.array([np.inf, 1.0])).max_abs == 0.0
    assert difference(np.array([np.nan]), np.array([np.nan])).max_abs == 0.0


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.integers(0, 19), st.floats(1e-3, 10))
def test_symmetric_and_zero_for_equal(values: list[float], at: int, gap: float) -> None:
    a = np.array(values)
    b = a.copy()
    b[at % len(a)] += gap
    assert difference(a, a).max_abs == 0
    assert difference(a, b).max_abs == difference(b, a).max_abs
