"""Draws from the network's distributions, out of uniform numbers fixed beforehand: no torch, no rejection loops.

Every draw is a function of its parameters and of its own uniform numbers, almost everywhere continuous in both, so that
engines whose parameters differ in the last digits draw the same samples. Shape letters: B series, K uniform numbers per
draw, P steps to forecast, Q parameters, S samples.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from lab.core.errors import UnsupportedError
from lab.core.seeding import stream

Draw = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(parameters [B, S, Q], noise [B, K, S], scale [B, 1]) -> samples [B, S] in units of the scale."""

_MAX_TABLES, _TABLE_BYTES = 32, 64 << 20
_NUM_TRIES = 4
_GAMMA_UNIFORMS = 3 * _NUM_TRIES + 1
_SMALL_MEAN = 30.0
_TINY = np.float32(1e-7)
# Generators of a Kronecker sequence in two dimensions: 1/g and 1/g^2 of the plastic number g.
_PLASTIC = (0.7548776662466927, 0.5698402909980532)


@lru_cache(maxsize=4)
def noise_tables(likelihood: str, seed: int, num_samples: int, horizon: int) -> np.ndarray:
    """Float32 [tables, P, K, S]: what `DRAWS[likelihood]` takes; a series uses the table that `table_of` names.

    Each uniform number is spread evenly over the samples of a step (randomly shifted lattices, in random order):
    quantiles of so few samples are then closer to the distribution's own than those of independent draws.
    """
    num_uniforms = _NUM_UNIFORMS[likelihood]
    bytes_each = 4 * horizon * num_uniforms * num_samples
    num_tables = int(np.clip(_TABLE_BYTES // max(bytes_each, 1), 1, _MAX_TABLES))
    rng = stream(seed, "forecast", likelihood, num_samples, horizon)
    shape = (num_tables, horizon, num_uniforms, num_samples)
    order = rng.permuted(np.broadcast_to(np.arange(num_samples), shape), axis=-1)
    uniform = (order + rng.random(shape)) / num_samples
    if num_uniforms >= 2:
        # The first two belong together: spread over the square, not only over each of its sides.
        points = np.outer(_PLASTIC, np.arange(num_samples))
        uniform[:, :, :2] = np.take_along_axis(
            (points + rng.random((num_tables, horizon, 2, 1))) % 1.0, order[:, :, :1], axis=-1
        )
    return _PREPARE[likelihood](np.clip(uniform, _TINY, 1 - _TINY)).astype(np.float32)


def table_of(scaled_BT: np.ndarray, num_tables: int) -> np.ndarray:
    """Int64 [B]: which table each series uses, by the ups and downs of its context.

    So a series gets the same forecast alone and among others, and also in other units.
    """
    rises = np.packbits(np.diff(scaled_BT, axis=1) > 0, axis=1)
    return np.asarray([zlib.crc32(row.tobytes()) % num_tables for row in rises], np.int64)


def _polar(uniform: np.ndarray) -> np.ndarray:
    """Logarithm of the first number and cosine of the second as an angle."""
    out = uniform.copy()
    out[:, :, 0] = np.log(uniform[:, :, 0])
    out[:, :, 1] = np.cos(2 * np.pi * uniform[:, :, 1])
    return out


def _student_t(parameters: np.ndarray, noise: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Bailey's polar method (Mathematics of Computation 62, 1994): exact for every number of degrees of freedom."""
    df, loc, width = parameters[..., 0], parameters[..., 1], parameters[..., 2]
    radius = np.sqrt(df * np.expm1(noise[:, 0] * (np.float32(-2) / df)))
    samples: np.ndarray = loc + width * radius * noise[:, 1]
    return samples


def _gaussian(parameters: np.ndarray, noise: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Box and Muller, which is the polar method's limit."""
    samples: np.ndarray = parameters[..., 0] + parameters[..., 1] * np.sqrt(np.float32(-2) * noise[:, 0]) * noise[:, 1]
    return samples


def _point(parameters: np.ndarray, noise: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.broadcast_to(parameters[..., 0], (len(noise), noise.shape[-1])).copy()


def _negative_binomial(parameters: np.ndarray, noise: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """A Poisson draw whose mean is a Gamma draw; mean and shape as in the paper's section 3.1."""
    mean, alpha = parameters[..., 0] * scale, parameters[..., 1] / np.sqrt(scale)
    rate = gamma(1 / alpha, noise[:, :_GAMMA_UNIFORMS]) * mean * alpha
    samples: np.ndarray = (poisson(rate, noise[:, _GAMMA_UNIFORMS]) / scale).astype(np.float32)
    return samples


def _beta(parameters: np.ndarray, noise: np.ndarray, scale: np.ndarray) -> np.ndarray:
    first = gamma(parameters[..., 0], noise[:, :_GAMMA_UNIFORMS])
    second = gamma(parameters[..., 1], noise[:, _GAMMA_UNIFORMS:])
    samples: np.ndarray = (first / np.maximum(first + second, np.finfo(np.float64).tiny)).astype(np.float32)
    return samples


def gamma(shape_BS: np.ndarray, noise_BKS: np.ndarray) -> np.ndarray:
    """Standard Gamma draws, float64 [B, S]: Marsaglia and Tsang (ACM TOMS 26, 2000) with so many tries drawn before.

    A try fails in at most 1 of 20 cases; where all four do (1 in 160,000), the mean stands in.
    """
    shape = np.broadcast_to(shape_BS, (len(noise_BKS), noise_BKS.shape[-1])).astype(np.float64)
    boosted = np.where(shape < 1, shape + 1, shape)
    d = boosted - 1 / 3
    c = 1 / np.sqrt(9 * d)
    drawn, is_open = boosted.copy(), np.ones(shape.shape, bool)
    for number in range(_NUM_TRIES):
        log_u, cosine, u = (noise_BKS[:, 3 * number + place].astype(np.float64) for place in range(3))
        normal = np.sqrt(-2 * log_u) * cosine
        v = np.maximum(1 + c * normal, 0) ** 3
        with np.errstate(divide="ignore"):
            accepted = is_open & (np.log(u) < 0.5 * normal**2 + d - d * v + d * np.log(v))
        drawn = np.where(accepted, d * v, drawn)
        is_open &= ~accepted
    # A shape below 1 is a larger one's draw times U^(1/shape).
    return np.where(shape < 1, drawn * noise_BKS[:, -1].astype(np.float64) ** (1 / shape), drawn)


def poisson(mean_BS: np.ndarray, uniform_BS: np.ndarray) -> np.ndarray:
    """Poisson draws, float64 [B, S], by inversion: summed up to a mean of 30, beyond it by the expansion of Giles
    (ACM TOMS 42, 2016, algorithm 955, equation 12), which is off by one in fewer than 1 of 10,000 draws."""
    mean = np.minimum(mean_BS.astype(np.float64), 1e15)
    small = mean < _SMALL_MEAN
    drawn = np.floor(np.maximum(_poisson_expansion(np.where(small, _SMALL_MEAN, mean), uniform_BS), 0))
    probability = np.exp(-np.where(small, mean, 0.0))
    below, count = probability.copy(), np.zeros_like(mean)
    for number in range(1, 200):
        is_open = small & (uniform_BS > below)
        if not is_open.any():
            break
        count[is_open] = number
        probability = probability * mean / number
        below = below + probability
    return np.where(small, count, drawn)


def _poisson_expansion(mean: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    w, root = normal_quantile(uniform), np.sqrt(mean)
    expansion: np.ndarray = (
        mean
        + root * w
        + (1 / 3 + w**2 / 6)
        + (-w / 36 - w**3 / 72) / root
        + (-8 / 405 + 7 / 810 * w**2 + w**4 / 270) / mean
    )
    return expansion


def normal_quantile(uniform: np.ndarray) -> np.ndarray:
    """The standard normal distribution's inverse, float64, to 1e-9 (Acklam's rational approximations)."""
    u = uniform.astype(np.float64)
    tail = np.minimum(u, 1 - u)
    q = np.sqrt(-2 * np.log(tail))
    outer = np.polyval(_ACKLAM_C, q) / np.polyval((*_ACKLAM_D, 1.0), q)
    centred = u - 0.5
    r = centred**2
    inner = np.polyval(_ACKLAM_A, r) * centred / np.polyval((*_ACKLAM_B, 1.0), r)
    return np.where(tail < 0.02425, np.where(u < 0.5, outer, -outer), inner)


_ACKLAM_A = (-3.969683028665376e1, 2.209460984245205e2, -2.759285104469687e2, 1.383577518672690e2,
             -3.066479806614716e1, 2.506628277459239)  # fmt: skip
_ACKLAM_B = (-5.447609879822406e1, 1.615858368580409e2, -1.556989798598866e2, 6.680131188771972e1,
             -1.328068155288572e1)  # fmt: skip
_ACKLAM_C = (-7.784894002430293e-3, -3.223964580411365e-1, -2.400758277161838, -2.549732539343734,
             4.374664141464968, 2.938163982698783)  # fmt: skip
_ACKLAM_D = (7.784695709041462e-3, 3.224671290700398e-1, 2.445134137142996, 3.754408661907416)


def _gamma_noise(uniform: np.ndarray) -> np.ndarray:
    """Of every three numbers of a Gamma draw, the first two in polar form; the ones behind them as they are."""
    out = uniform.copy()
    for first in range(0, uniform.shape[2] - _GAMMA_UNIFORMS + 1, _GAMMA_UNIFORMS):
        for place in range(first, first + 3 * _NUM_TRIES, 3):
            out[:, :, place : place + 2] = _polar(uniform[:, :, place : place + 2])
    return out


DRAWS: dict[str, Draw] = {
    "student-T": _student_t,
    "gaussian": _gaussian,
    "negative-binomial": _negative_binomial,
    "beta": _beta,
    "deterministic-L1": _point,
}
_NUM_UNIFORMS = {
    "student-T": 2,
    "gaussian": 2,
    "negative-binomial": _GAMMA_UNIFORMS + 1,
    "beta": 2 * _GAMMA_UNIFORMS,
    "deterministic-L1": 1,
}
_PREPARE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "student-T": _polar,
    "gaussian": _polar,
    "negative-binomial": _gamma_noise,
    "beta": _gamma_noise,
    "deterministic-L1": lambda uniform: uniform,
}


def draw_of(likelihood: str) -> Draw:
    """Raises UnsupportedError for a likelihood that is not known."""
    if likelihood not in DRAWS:
        raise UnsupportedError("unknown likelihood", got=likelihood, expected=", ".join(DRAWS))
    return DRAWS[likelihood]
