"""Running count, mean and variance (Welford, "Note on a Method for Calculating Corrected Sums of Squares", 1962)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Moments:
    """Of values seen one by one; a value can be taken back."""

    num: int = 0
    mean: float = 0.0
    sum_squares: float = 0.0
    """Of the deviations from the mean."""

    def add(self, value: float) -> None:
        self.num += 1
        delta = value - self.mean
        self.mean += delta / self.num
        self.sum_squares += delta * (value - self.mean)

    def remove(self, value: float) -> None:
        """Undo an earlier `add(value)`."""
        if self.num <= 1:
            self.num, self.mean, self.sum_squares = 0, 0.0, 0.0
            return
        self.num -= 1
        delta = value - self.mean
        self.mean -= delta / self.num
        self.sum_squares = max(0.0, self.sum_squares - delta * (value - self.mean))

    @property
    def variance(self) -> float:
        """Unbiased; 0 for fewer than two values."""
        return self.sum_squares / (self.num - 1) if self.num > 1 else 0.0

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)
