"""What every forecast is compared with: naive, seasonal naive and exponential smoothing.

Shape letters: P steps to forecast, S samples, T time.
"""

from __future__ import annotations

import warnings
from functools import lru_cache

import numpy as np

from lab.core.errors import MissingToolError

MAX_ETS_SEASON = 24
_MAX_ETS_LENGTH = 1500
_MIN_ETS_LENGTH = 8


def filled(target_T: np.ndarray) -> np.ndarray:
    """Missing values replaced by the last one before them; leading ones by the first observed."""
    observed = np.flatnonzero(~np.isnan(target_T))
    if not len(observed):
        return np.zeros_like(target_T)
    places = np.searchsorted(observed, np.arange(len(target_T)), side="right") - 1
    result: np.ndarray = target_T[observed[np.maximum(places, 0)]]
    return result


def naive(target_T: np.ndarray, horizon: int) -> np.ndarray:
    """The last observed value, repeated: [P]."""
    return np.repeat(filled(target_T)[-1:], horizon)


def seasonal_naive(target_T: np.ndarray, horizon: int, season: int) -> np.ndarray:
    """The last season, repeated: [P]; the naive forecast where the series is shorter than a season."""
    if len(target_T) < season:
        return naive(target_T, horizon)
    last = filled(target_T)[-season:]
    return np.resize(last, horizon)


def seasonal_error(target_T: np.ndarray, season: int) -> float:
    """Mean absolute change over a season, which scales MASE (Hyndman and Koehler, 2006); NaN where none is known."""
    changes = np.abs(target_T[season:] - target_T[:-season])
    known = changes[~np.isnan(changes)]
    return float(known.mean()) if len(known) else float("nan")


def ets(target_T: np.ndarray, horizon: int, season: int, *, num_samples: int, seed: int) -> np.ndarray:
    """`fitted_ets`, remembered: every engine of a run is compared with the same forecasts."""
    return _remembered(np.ascontiguousarray(target_T, np.float64).tobytes(), horizon, season, num_samples, seed)


@lru_cache(maxsize=1024)
def _remembered(target: bytes, horizon: int, season: int, num_samples: int, seed: int) -> np.ndarray:
    return fitted_ets(np.frombuffer(target, np.float64), horizon, season, num_samples=num_samples, seed=seed)


def fitted_ets(target_T: np.ndarray, horizon: int, season: int, *, num_samples: int, seed: int) -> np.ndarray:
    """Sample paths [S, P] of exponential smoothing in state space form: additive error, damped additive trend, additive
    season where one of at most 24 steps was seen twice (Hyndman et al., 2008; statsmodels' ETSModel).

    Raises:
        MissingToolError: statsmodels is not installed.
    """
    try:
        from statsmodels.tsa.exponential_smoothing.ets import ETSModel
    except ImportError as error:
        raise MissingToolError("exponential smoothing needs statsmodels", hint="pip install 'lab[train]'") from error
    values = filled(target_T)[-_MAX_ETS_LENGTH:]
    if len(values) < _MIN_ETS_LENGTH or np.ptp(values) == 0:
        return np.repeat(naive(target_T, horizon)[None], num_samples, axis=0)
    has_season = 1 < season <= MAX_ETS_SEASON and len(values) >= 2 * season
    options = {"seasonal": "add", "seasonal_periods": season} if has_season else {}
    scale = float(np.abs(values).mean()) or 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of optimisers that stop early; the fit is judged by its forecasts
        fitted = ETSModel(values / scale, error="add", trend="add", damped_trend=True, **options).fit(disp=False)
        # Errors of our own: the argument for a seed has another name in every version.
        errors_PS = np.random.default_rng(seed).normal(0, np.sqrt(np.mean(fitted.resid**2)), (horizon, num_samples))
        paths_PS = fitted.simulate(horizon, anchor="end", repetitions=num_samples, random_errors=errors_PS)
    return scale * np.asarray(paths_PS).reshape(horizon, num_samples).T
