"""The distributions that the network can end in: from its raw outputs to parameters, and their negative log-likelihood.

Everything is in units of the scale, so that one network serves series of all sizes; `sampling` draws from the same
parameters. Shape letters: B batch, T steps, Q parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lab.core.errors import ConfigError

EPS = 1e-6
"""Keeps widths, means and the ends of the unit interval away from zero."""
_BETA_MARGIN = 1e-3


@dataclass(frozen=True)
class LikelihoodFunctions:
    """`parameters(raw [..., Q])` maps into the allowed ranges; `nll(parameters, y, scale)` takes y [...] in units of
    `scale`, which only a distribution over counts needs."""

    parameters: Callable[[Tensor], Tensor]
    nll: Callable[[Tensor, Tensor, Tensor], Tensor]


def _student_t(raw: Tensor) -> Tensor:
    """Degrees of freedom above 2, so that there is a variance; location; width."""
    df, loc, width = raw.unbind(-1)
    return torch.stack((2 + F.softplus(df), loc, F.softplus(width) + EPS), dim=-1)


def _student_t_nll(parameters: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    df, loc, width = parameters.unbind(-1)
    z = (y - loc) / width
    log_norm = torch.lgamma(df / 2) - torch.lgamma((df + 1) / 2) + 0.5 * torch.log(df * math.pi)
    return log_norm + torch.log(width) + (df + 1) / 2 * torch.log1p(z * z / df)


def _gaussian(raw: Tensor) -> Tensor:
    loc, width = raw.unbind(-1)
    return torch.stack((loc, F.softplus(width) + EPS), dim=-1)


def _gaussian_nll(parameters: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    loc, width = parameters.unbind(-1)
    return 0.5 * ((y - loc) / width) ** 2 + torch.log(width) + 0.5 * math.log(2 * math.pi)


def _negative_binomial(raw: Tensor) -> Tensor:
    """Mean, and alpha: the variance is mean + alpha * mean^2 (the paper's section 3.1)."""
    return F.softplus(raw) + EPS


def _negative_binomial_nll(parameters: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    mean, alpha = parameters[..., 0] * scale, parameters[..., 1] / torch.sqrt(scale)
    count, shape = y * scale, 1 / alpha
    log_odds = torch.log(alpha * mean)
    return (
        torch.lgamma(shape)
        + torch.lgamma(count + 1)
        - torch.lgamma(count + shape)
        + shape * F.softplus(log_odds)
        + count * F.softplus(-log_odds)
    )


def _beta(raw: Tensor) -> Tensor:
    return F.softplus(raw) + EPS


def _beta_nll(parameters: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """0 and 1 are allowed (DAR-H10): the distribution's ends are moved in by a thousandth, where it is finite."""
    a, b = parameters.unbind(-1)
    y = y.clamp(_BETA_MARGIN, 1 - _BETA_MARGIN)
    log_norm = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
    return log_norm - (a - 1) * torch.log(y) - (b - 1) * torch.log1p(-y)


def _identity(raw: Tensor) -> Tensor:
    return raw


def _absolute_error(parameters: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    return (y - parameters[..., 0]).abs()


LIKELIHOODS: dict[str, LikelihoodFunctions] = {
    "student-T": LikelihoodFunctions(_student_t, _student_t_nll),
    "gaussian": LikelihoodFunctions(_gaussian, _gaussian_nll),
    "negative-binomial": LikelihoodFunctions(_negative_binomial, _negative_binomial_nll),
    "beta": LikelihoodFunctions(_beta, _beta_nll),
    "deterministic-L1": LikelihoodFunctions(_identity, _absolute_error),
}


def likelihood_of(name: str) -> LikelihoodFunctions:
    """Raises ConfigError listing the known ones."""
    if name not in LIKELIHOODS:
        raise ConfigError("unknown likelihood", got=name, expected=", ".join(LIKELIHOODS))
    return LIKELIHOODS[name]
