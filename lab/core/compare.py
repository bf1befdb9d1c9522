"""One comparison of arrays, used by the parity ladder, the bench and the tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Difference:
    """How far `actual` is from `expected`, and where it is farthest."""

    max_abs: float
    max_rel: float
    index: tuple[int, ...]
    expected_value: float
    actual_value: float

    def __str__(self) -> str:
        at = list(self.index)
        return (
            f"max abs error {self.max_abs:.3g} at {at} (expected {self.expected_value:.6g}, got "
            f"{self.actual_value:.6g}), max rel error {self.max_rel:.3g}"
        )


def difference(expected: np.ndarray, actual: np.ndarray) -> Difference:
    """Compare two arrays elementwise in float64; relative error is against the largest magnitude of `expected`.

    A shape mismatch, or a NaN on one side only, is an infinite difference.
    """
    if expected.shape != actual.shape:
        return Difference(np.inf, np.inf, (), float("nan"), float("nan"))
    if expected.size == 0:
        return Difference(0.0, 0.0, (), float("nan"), float("nan"))
    a, b = expected.astype(np.float64), actual.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        gap = np.where(same, 0.0, np.abs(a - b))
    gap = np.where(np.isnan(gap), np.inf, gap)
    worst = np.unravel_index(int(gap.argmax()), gap.shape)
    finite = np.abs(a[np.isfinite(a)])
    scale = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    max_abs = float(gap[worst])
    return Difference(max_abs, max_abs / scale, tuple(int(i) for i in worst), float(a[worst]), float(b[worst]))
