"""Does the candidate cause more events (errors, slow answers) than the control? An e-process over the events alone.

Only requests that had the event are looked at. If both variants are equally likely to cause it, the next event is the
candidate's with probability w, its share of the pair's traffic at that moment; at a risk ratio r it is the candidate's
with probability theta_r(w) = w r / (w r + 1 - w). The evidence is the likelihood ratio of the two, averaged over a grid
of ratios:

    e = sum_j pi_j prod_t [theta_j(w_t) / theta_0(w_t)]^x_t [(1 - theta_j(w_t)) / (1 - theta_0(w_t))]^(1 - x_t)

with x_t = 1 for an event of the candidate and theta_0 the probability at the tolerated ratio. Each factor has
conditional expectation at most 1 for every true ratio up to the tolerated one, whatever the base rate, and w_t is known
beforehand, so e is a supermartingale also while the weights change; by Ville's inequality
P(e ever reaches 1/alpha) <= alpha.

Sources: Lindon and Malek, "Anytime-Valid Inference for Multinomial Count Data" (NeurIPS 2022, arXiv 2011.03567,
section 4, ratios of Poisson rates as Bernoulli trials); mixtures: Robbins, "Statistical Methods Related to the Law of
the Iterated Logarithm" (1970); Ville (1939).

Shape letters: R ratios of the grid, N events in order, S different shares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lab.core.errors import ConfigError

FloatArray = NDArray[np.float64]

RATIOS = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)
"""Risk ratios of the alternative; multiplied by the tolerated ratio."""


def event_probability(share: FloatArray, ratio: FloatArray | float) -> FloatArray:
    """theta_r(w): the probability that an event is the candidate's."""
    risk = share * ratio
    return np.asarray(risk / (risk + 1.0 - share), np.float64)


def log_factors(share: ArrayLike, ratios_R: FloatArray, tolerated: float) -> tuple[FloatArray, FloatArray]:
    """The logarithm of one event's factor, per share and ratio: for an event of the candidate, and of the control."""
    share_N1 = np.asarray(share, np.float64)[..., None]
    alternative, null = event_probability(share_N1, ratios_R), event_probability(share_N1, tolerated)
    return np.log(alternative / null), np.log((1.0 - alternative) / (1.0 - null))


def log_mean_exp(log_values: FloatArray, axis: int = -1) -> FloatArray:
    """log(mean(exp(x))) without overflow."""
    top = log_values.max(axis=axis, keepdims=True)
    mean = np.log(np.exp(log_values - top).mean(axis=axis, keepdims=True)) + top
    return np.asarray(mean.squeeze(axis), np.float64)


class RiskRatioProcess:
    """The e-process of one kind of event, one candidate against one control.

    Args:
        tolerated_ratio: ratios up to here are no evidence; 1 asks for "not worse", 1.25 for "not 25 % worse".
        ratios: the alternative's grid with equal prior weights, as multiples of the tolerated ratio.

    Raises:
        ConfigError: a ratio of the grid is not above 1, or the tolerated one is below.
    """

    def __init__(self, tolerated_ratio: float = 1.0, ratios: Sequence[float] = RATIOS) -> None:
        if not ratios or min(ratios) <= 1.0 or not tolerated_ratio >= 1.0:
            raise ConfigError(
                "the grid of risk ratios is unusable", got=(tolerated_ratio, tuple(ratios)),
                expected="a tolerated ratio >= 1, all others > 1",
            )  # fmt: skip
        self.tolerated_ratio = tolerated_ratio
        self._ratios_R = tolerated_ratio * np.asarray(ratios, np.float64)
        self._log_wealth_R = np.zeros(len(ratios))
        self.num_candidate = 0
        self.num_control = 0
        self.num_expected = 0.0
        self.log_e_max = 0.0

    def update(self, share: float, num_candidate: int = 0, num_control: int = 0) -> None:
        """Take events that happened while the candidate had `share` of the pair's traffic.

        Events at a share of 0 or 1 tell nothing of the ratio and are left out. A group of events may come in several
        calls; `look` when it is complete.
        """
        if not 0.0 < share < 1.0:
            return
        candidate_R, control_R = log_factors(share, self._ratios_R, self.tolerated_ratio)
        self._log_wealth_R = self._log_wealth_R + num_candidate * candidate_R + num_control * control_R
        self.num_candidate += num_candidate
        self.num_control += num_control
        self.num_expected += share * (num_candidate + num_control)

    def look(self) -> None:
        """Let the evidence of this moment count. Never halfway through a group that is sorted by variant."""
        self.log_e_max = max(self.log_e_max, self.log_e)

    @property
    def log_e(self) -> float:
        """The natural logarithm of the evidence; 0 before the first event."""
        return float(log_mean_exp(self._log_wealth_R))

    def reached(self, alpha: float) -> bool:
        """Whether the evidence was 1/alpha at any look: then equal variants have become too unlikely."""
        return self.log_e_max >= -math.log(alpha)

    @property
    def p_value(self) -> float:
        """Valid at every moment: the inverse of the most evidence at any look."""
        return math.exp(-self.log_e_max)

    def summary(self) -> dict[str, Any]:
        """The numbers a decision rests on. `observed_over_expected` is 1 for equal variants."""
        ratio = self.num_candidate / self.num_expected if self.num_expected else None
        return {
            "e_value": _finite_exp(self.log_e), "e_value_max": _finite_exp(self.log_e_max), "p_value": self.p_value,
            "tolerated_ratio": self.tolerated_ratio, "num_candidate": self.num_candidate,
            "num_control": self.num_control, "num_expected_candidate": self.num_expected,
            "observed_over_expected": ratio,
        }  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        return {
            "log_wealth": self._log_wealth_R.tolist(), "num_candidate": self.num_candidate,
            "num_control": self.num_control, "num_expected": self.num_expected, "log_e_max": self.log_e_max,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`.

        Raises:
            ConfigError: the state was kept with another grid.
        """
        wealth_R = np.asarray(state["log_wealth"], np.float64)
        if wealth_R.shape != self._log_wealth_R.shape:
            raise ConfigError("the kept grid of ratios differs", got=wealth_R.size, expected=self._log_wealth_R.size)
        self._log_wealth_R = wealth_R
        self.num_candidate, self.num_control = int(state["num_candidate"]), int(state["num_control"])
        self.num_expected, self.log_e_max = float(state["num_expected"]), float(state["log_e_max"])


def log_e_path(
    share_N: FloatArray, is_candidate_N: NDArray[np.bool_], tolerated: float = 1.0, ratios: Sequence[float] = RATIOS
) -> FloatArray:
    """The evidence after each of N events at once, float64 [N]; equal to updating a RiskRatioProcess N times."""
    shares_S, index_N = np.unique(share_N, return_inverse=True)
    candidate_SR, control_SR = log_factors(shares_S, tolerated * np.asarray(ratios, np.float64), tolerated)
    factors_NR = np.where(is_candidate_N[:, None], candidate_SR[index_N], control_SR[index_N])
    return log_mean_exp(np.cumsum(factors_NR, axis=0))


def _finite_exp(value: float) -> float:
    return math.exp(min(value, 700.0))
