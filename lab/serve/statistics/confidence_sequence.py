"""How large is the difference of an outcome metric? Confidence sequences: intervals that hold at all times together.

The asymptotic confidence sequence of a mean after n units of standard deviation s is mean +- s h(n) with

    two-sided  h = sqrt( 2 (n rho^2 + 1) / (n rho)^2  ln( sqrt(n rho^2 + 1) / alpha ) )
    one-sided  h = sqrt( 2 (n rho^2 + 1) / (n rho)^2  ln( 1 + sqrt(n rho^2 + 1) / (2 alpha) ) )
    rho = sqrt( (-2 ln alpha + ln(1 - 2 ln alpha)) / N* ), with 2 alpha in place of alpha one-sided

narrowest, relative to a fixed sample's interval, near the planned n = N*. For a difference of two arms n is both arms'
together and s^2 = n (s_c^2 / n_c + s_0^2 / n_0).

Sources: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic confidence
sequences" (arXiv 2103.06476v7: equations 9, 134 and 161; p-value 155); the difference as in GrowthBook's gbstats.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from lab.serve.statistics.moments import Moments

PLANNED_UNITS = 5000
"""N*, GrowthBook's default."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its bounds; infinite bounds where too little is known."""

    estimate: float
    low: float
    high: float
    num_units: int

    def to_dict(self) -> dict[str, Any]:
        return {key: value if math.isfinite(value) else None for key, value in asdict(self).items()}


def tuned_rho(planned: float, alpha: float) -> float:
    """The boundary's scale that is best after `planned` units."""
    return math.sqrt((-2.0 * math.log(alpha) + math.log(1.0 - 2.0 * math.log(alpha))) / planned)


def half_width(num: float, std: float, alpha: float, planned: float = PLANNED_UNITS, sides: int = 2) -> float:
    """Distance of the bound from the mean of `num` units; with `sides=1` of the only bound there is."""
    rho = tuned_rho(planned, alpha if sides == 2 else 2.0 * alpha)
    growth = num * rho**2 + 1.0
    log_term = math.log(math.sqrt(growth) / alpha) if sides == 2 else math.log1p(math.sqrt(growth) / (2.0 * alpha))
    return std * math.sqrt(2.0 * growth * log_term) / (num * rho)


def mean_interval(arm: Moments, alpha: float, planned: float = PLANNED_UNITS, sides: int = 2) -> Interval:
    """The sequence of one arm's mean."""
    if arm.num < 2:
        return Interval(arm.mean if arm.num else 0.0, -math.inf, math.inf, arm.num)
    half = half_width(arm.num, math.sqrt(arm.variance), alpha, planned, sides)
    return Interval(arm.mean, arm.mean - half, arm.mean + half, arm.num)


def difference_interval(
    candidate: Moments, control: Moments, alpha: float, planned: float = PLANNED_UNITS, sides: int = 2
) -> Interval:
    """The sequence of candidate mean - control mean. With `sides=1` each bound alone holds at level alpha."""
    num = candidate.num + control.num
    estimate = candidate.mean - control.mean
    if min(candidate.num, control.num) < 2:
        return Interval(estimate, -math.inf, math.inf, num)
    half = half_width(num, math.sqrt(num) * standard_error(candidate, control), alpha, planned, sides)
    return Interval(estimate, estimate - half, estimate + half, num)


def difference_p_value(candidate: Moments, control: Moments, alpha: float, planned: float = PLANNED_UNITS) -> float:
    """Always-valid two-sided p-value of "no difference": 1/e of the boundary's mixture; below alpha just when the
    two-sided interval at alpha excludes 0."""
    num, error = candidate.num + control.num, standard_error(candidate, control)
    if min(candidate.num, control.num) < 2 or error == 0.0:
        return 1.0
    rho = tuned_rho(planned, alpha)
    growth = num * rho**2 + 1.0
    z_squared = ((candidate.mean - control.mean) / error) ** 2
    log_e = num * rho**2 * z_squared / (2.0 * growth) - 0.5 * math.log(growth)
    return math.exp(-max(0.0, log_e))


def standard_error(candidate: Moments, control: Moments) -> float:
    """Of the difference of means."""
    return math.sqrt(candidate.variance / candidate.num + control.variance / control.num)
