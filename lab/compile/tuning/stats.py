"""Whether one kernel is faster than another, from times taken in turns on a machine that may be busy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, sqrt
from statistics import median

SURE = 2.58
"""Standard deviations of the sign test: 99.5 % on one side."""
MIN_GAIN = 1.03
"""Below it a record is not worth keeping: whole models differ by that from run to run."""


@dataclass(frozen=True)
class Comparison:
    """Paired times in seconds of one call: the default's and the candidate's, each pair taken one after the other."""

    default_s: tuple[float, ...]
    candidate_s: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        return sorted(a / b for a, b in zip(self.default_s, self.candidate_s, strict=True))

    @property
    def gain(self) -> float:
        """The median of the pairs' ratios; above one the candidate is faster."""
        return median(self.ratios)

    @property
    def least_gain(self) -> float:
        """A lower bound of the ratios' median that holds with 99.5 %, whatever their distribution."""
        ratios = self.ratios
        rank = floor(len(ratios) / 2 - SURE * sqrt(len(ratios)) / 2) - 1
        return ratios[rank] if rank >= 0 else 0.0

    @property
    def is_clear(self) -> bool:
        return self.gain >= MIN_GAIN and self.least_gain > 1.0

    @property
    def default_ms(self) -> float:
        return median(self.default_s) * 1e3

    @property
    def candidate_ms(self) -> float:
        return median(self.candidate_s) * 1e3


def compared(default_s: Sequence[float], candidate_s: Sequence[float]) -> Comparison:
    return Comparison(tuple(default_s), tuple(candidate_s))
