"""A Bayesian reading of a difference, for people to look at; no decision rests on it, as peeking would bias it.

Gaussian posterior under a flat prior, as GrowthBook's Bayesian engine with its default (improper) prior: the difference
is N(d, se^2). Rates take Jeffreys' Beta(1/2, 1/2) prior and the Gaussian of the same mean and variance.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Reading:
    """Args:
    probability_better: that the candidate's true value is the better one.
    expected_loss: what is lost on average, in the metric's unit, by choosing the candidate although it is worse.
    """

    probability_better: float
    expected_loss: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def normal_reading(improvement: float, standard_error: float) -> Reading:
    """Of an improvement (positive is better) with its standard error."""
    if standard_error <= 0.0:
        return Reading(0.5 if improvement == 0.0 else float(improvement > 0.0), max(0.0, -improvement))
    z = improvement / standard_error
    below = 0.5 * math.erfc(z / math.sqrt(2.0))
    density = math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    return Reading(1.0 - below, max(0.0, standard_error * density - improvement * below))


def error_rate_reading(candidate: tuple[int, int], control: tuple[int, int]) -> Reading:
    """Of two error rates, each given as (errors, requests); fewer is better."""
    (mean_c, var_c), (mean_0, var_0) = _jeffreys(*candidate), _jeffreys(*control)
    return normal_reading(mean_0 - mean_c, math.sqrt(var_c + var_0))


def _jeffreys(num_errors: int, num: int) -> tuple[float, float]:
    a, b = num_errors + 0.5, num - num_errors + 0.5
    mean = a / (a + b)
    return mean, mean * (1.0 - mean) / (a + b + 1.0)
