"""Is the traffic split as the weights say? The Dirichlet-multinomial e-process for sample-ratio mismatch.

While the shares are p, k variants with counts n_i (n in all) give the Bayes factor of a Dirichlet(c p) prior against p:

    B = Gamma(c) / Gamma(c + n)  prod_i Gamma(c p_i + n_i) / (Gamma(c p_i) p_i^n_i)

It is a martingale under the null for any c. Counts are kept apart for each vector of shares and their factors
multiplied: a unit's factor depends on the past of its own shares alone, so the product stays a martingale however the
weights change. A large c looks for the small mismatches of a live system (10,000 in Lindon's ssrm-test), a small one
finds gross bugs within few requests (100 in savvi); we average over both.

Sources: Lindon and Malek, "Anytime-Valid Inference for Multinomial Count Data" (NeurIPS 2022, arXiv 2011.03567),
section 3. The level 0.001 is the field's: Fabijan et al., "Diagnosing Sample Ratio Mismatch" (KDD 2019).

Shape letters: N units in order, C concentrations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lab.core.errors import ConfigError

CONCENTRATIONS = (100.0, 10_000.0)
Shares = tuple[float, ...]


class SampleRatioProcess:
    """Counts of units per variant under changing shares, and the evidence that they do not fit.

    Args:
        variants: in the order of every vector of shares.
    """

    def __init__(self, variants: Sequence[str], concentrations: Sequence[float] = CONCENTRATIONS) -> None:
        self.variants = tuple(variants)
        self._concentrations = tuple(concentrations)
        self._index = {name: i for i, name in enumerate(self.variants)}
        self._counts: dict[Shares, list[int]] = {}
        self._log_wealth = [0.0] * len(self._concentrations)
        self.log_e_max = 0.0

    def update(self, shares: Mapping[str, float], variant: str, num: int = 1) -> None:
        """Take `num` units assigned to `variant` while `shares` were in force (they are divided by their sum).

        A unit in a variant without a share is a contradiction and makes the evidence infinite. `look` when all units
        of a moment are in.

        Raises:
            ConfigError: an unknown variant, or shares that are negative or sum to zero.
        """
        key, index = self._normalised(shares), self._index.get(variant)
        if index is None:
            raise ConfigError("a unit was counted for an unknown variant", got=variant, expected=self.variants)
        counts = self._counts.setdefault(key, [0] * len(key))
        share, total = key[index], sum(counts)
        for j, c in enumerate(self._concentrations):
            self._log_wealth[j] += _log_predictive(c * share, c, counts[index], total, num) - num * _log(share)
        counts[index] += num

    def look(self) -> None:
        """Let the evidence of this moment count."""
        self.log_e_max = max(self.log_e_max, self.log_e)

    def _normalised(self, shares: Mapping[str, float]) -> Shares:
        values = [shares.get(name, 0.0) for name in self.variants]
        total = sum(values)
        if total <= 0.0 or min(values) < 0.0:
            raise ConfigError("shares of traffic must not be negative and must sum to more than 0", got=dict(shares))
        return tuple(round(value / total, 12) for value in values)

    @property
    def log_e(self) -> float:
        """The natural logarithm of the evidence against the asked split; 0 before the first unit."""
        top = max(self._log_wealth)
        if math.isinf(top):
            return top
        return top + math.log(sum(math.exp(w - top) for w in self._log_wealth) / len(self._log_wealth))

    def reached(self, alpha: float) -> bool:
        """Whether the evidence was 1/alpha at any look."""
        return self.log_e_max >= -math.log(alpha)

    @property
    def p_value(self) -> float:
        return math.exp(-self.log_e_max)

    def summary(self) -> dict[str, Any]:
        """Counted and expected units per variant over all shares, and the evidence."""
        num = dict.fromkeys(self.variants, 0)
        expected = dict.fromkeys(self.variants, 0.0)
        for key, counts in self._counts.items():
            for name, share, count in zip(self.variants, key, counts, strict=True):
                num[name] += count
                expected[name] += share * sum(counts)
        evidence = {"e_value": math.exp(min(self.log_e, 700.0)), "p_value": self.p_value}
        return evidence | {"num_units": num, "num_expected": expected}

    def state_dict(self) -> dict[str, Any]:
        counts = [{"shares": list(key), "counts": counts} for key, counts in self._counts.items()]
        return {"counts": counts, "log_wealth": self._log_wealth, "log_e_max": self.log_e_max}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._counts = {tuple(entry["shares"]): list(entry["counts"]) for entry in state["counts"]}
        self._log_wealth, self.log_e_max = list(state["log_wealth"]), float(state["log_e_max"])


def log_bayes_factor(counts: Sequence[int], shares: Sequence[float], concentration: float) -> float:
    """log B of one vector of shares in closed form; what the process adds up unit by unit."""
    total = sum(counts)
    value = math.lgamma(concentration) - math.lgamma(concentration + total)
    for count, share in zip(counts, shares, strict=True):
        prior = concentration * share
        value += math.lgamma(prior + count) - math.lgamma(prior) - count * math.log(share)
    return value


def log_e_path(share: float, is_second_N: NDArray[np.bool_], concentrations: Sequence[float]) -> NDArray[np.float64]:
    """log B per concentration after each of N units of two variants at a constant share of the second, [N, C]."""
    num_second_N1 = np.cumsum(is_second_N, dtype=np.float64)[:, None] - is_second_N[:, None]
    concentration_C = np.asarray(concentrations, np.float64)
    seen_N1 = np.arange(len(is_second_N), dtype=np.float64)[:, None]
    predicted_NC = (concentration_C * share + num_second_N1) / (concentration_C + seen_N1)
    factors_NC = np.where(is_second_N[:, None], predicted_NC / share, (1.0 - predicted_NC) / (1.0 - share))
    return np.asarray(np.cumsum(np.log(factors_NC), axis=0), np.float64)


def _log_predictive(prior: float, concentration: float, count: int, total: int, num: int) -> float:
    """The prior predictive probability, logarithmic, of `num` more units in a variant that has `count` of `total`."""
    if prior == 0.0:
        return 0.0
    if num == 1:
        return math.log((prior + count) / (concentration + total))
    gained = math.lgamma(prior + count + num) - math.lgamma(prior + count)
    return gained - math.lgamma(concentration + total + num) + math.lgamma(concentration + total)


def _log(value: float) -> float:
    return math.log(value) if value > 0.0 else -math.inf
