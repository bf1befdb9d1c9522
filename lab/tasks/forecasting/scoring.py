"""Accuracy of sample paths: sums over windows that add up over batches and processes, and the figures made of them.

Definitions as in GluonTS's Evaluator; quantile loss also as Amazon SageMaker reports it (DAR-O2). Shape letters:
B windows, P steps to forecast, Q quantile levels, S samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lab.core.errors import MissingToolError
from lab.core.progress import warn
from lab.core.seeding import stream_seed
from lab.data.series.series import Series
from lab.tasks.forecasting.baselines import ets, naive, seasonal_naive
from lab.tasks.forecasting.responses import quantiles_of
from lab.tasks.forecasting.windows import Preprocessing

COVERAGES = {"coverage_50": (0.25, 0.75), "coverage_80": (0.1, 0.9), "coverage_95": (0.025, 0.975)}
"""Shares of the truth that should lie between two quantiles."""
_PLAIN = ("values", "absolute_truth", "absolute_error", "squared_error", "crps", "scaled_error", "windows")


@dataclass(frozen=True)
class Truth:
    """What came after a forecast's origin: float64 [P] with NaN where it is missing, and MASE's denominator."""

    target_P: np.ndarray
    seasonal_error: float


@dataclass(frozen=True)
class ForecastSample:
    """A series up to an origin (its dynamic features reach to the horizon's end), and what came then."""

    input: Series
    label: Truth
    name: str


def num_sums(levels: Sequence[float]) -> int:
    return len(_PLAIN) + len(COVERAGES) + len(levels)


def window_sums(
    samples_BSP: np.ndarray, target_BP: np.ndarray, seasonal_error_B: np.ndarray, levels: Sequence[float]
) -> np.ndarray:
    """Float64 sums over all observed values of the windows, in the order that `figures` reads."""
    observed_BP = ~np.isnan(target_BP)
    truth_BP, samples_BSP = np.where(observed_BP, target_BP, 0.0), samples_BSP.astype(np.float64)
    bounds = [level for pair in COVERAGES.values() for level in pair]
    quantiles_BQP = quantiles_of(samples_BSP, [0.5, *bounds, *levels])
    median_BP, bounds_BQP, chosen_BQP = np.split(quantiles_BQP, [1, 1 + len(bounds)], axis=1)
    error_BP = np.abs(truth_BP - median_BP[:, 0]) * observed_BP
    counts_B = observed_BP.sum(axis=1)
    has_scale_B = (counts_B > 0) & (seasonal_error_B > 0)
    scaled_B = error_BP.sum(axis=1)[has_scale_B] / counts_B[has_scale_B] / seasonal_error_B[has_scale_B]
    inside_BQP = (bounds_BQP[:, ::2] <= truth_BP[:, None]) & (truth_BP[:, None] <= bounds_BQP[:, 1::2])
    plain = (
        counts_B.sum(),
        np.abs(truth_BP).sum(),
        error_BP.sum(),
        ((truth_BP - samples_BSP.mean(axis=1)) ** 2 * observed_BP).sum(),
        (_crps(samples_BSP, truth_BP) * observed_BP).sum(),
        scaled_B.sum(),
        has_scale_B.sum(),
    )
    coverage = (inside_BQP * observed_BP[:, None]).sum(axis=(0, 2))
    return np.concatenate([plain, coverage, _quantile_losses(chosen_BQP, truth_BP, observed_BP, levels)])


def _quantile_losses(
    quantiles_BQP: np.ndarray, truth_BP: np.ndarray, observed_BP: np.ndarray, levels: Sequence[float]
) -> np.ndarray:
    """2 * sum of the pinball loss, per level (DAR-O2)."""
    excess_BQP = truth_BP[:, None] - quantiles_BQP
    level_Q1 = np.asarray(levels)[:, None]
    losses: np.ndarray = 2 * np.where(excess_BQP > 0, level_Q1 * excess_BQP, (level_Q1 - 1) * excess_BQP)
    total: np.ndarray = (losses * observed_BP[:, None]).sum(axis=(0, 2))
    return total


def _crps(samples_BSP: np.ndarray, truth_BP: np.ndarray) -> np.ndarray:
    """Of the empirical distribution: E|X - y| - E|X - X'| / 2 (Gneiting and Raftery 2007, equation 21), [B, P]."""
    count = samples_BSP.shape[1]
    ordered_BSP = np.sort(samples_BSP, axis=1)
    weights_S = 2 * np.arange(1, count + 1) - count - 1
    spread_BP = np.einsum("s,bsp->bp", weights_S, ordered_BSP) / count**2
    crps: np.ndarray = np.abs(ordered_BSP - truth_BP[:, None]).mean(axis=1) - spread_BP
    return crps


def figures(sums: np.ndarray, levels: Sequence[float]) -> dict[str, float]:
    """RMSE of the mean; ND, MASE of the median; quantile losses and CRPS relative to the sum of absolute values;
    coverages as shares."""
    values, truth, error, squared, crps, scaled, windows = sums[: len(_PLAIN)].tolist()
    coverage = sums[len(_PLAIN) : len(_PLAIN) + len(COVERAGES)]
    losses = sums[len(_PLAIN) + len(COVERAGES) :] / (truth or np.nan)
    result = {
        "mean_wql": float(losses.mean()),
        "crps": crps / (truth or np.nan),
        "mase": scaled / (windows or np.nan),
        "nd": error / (truth or np.nan),
        "rmse": float(np.sqrt(squared / (values or np.nan))),
    }
    result |= {name: float(share) / (values or np.nan) for name, share in zip(COVERAGES, coverage, strict=True)}
    return result | {f"wql_{level:g}": float(loss) for level, loss in zip(levels, losses, strict=True)}


class Scorer:
    """Figures of everything given to `update`, and beside them those of the baselines on the same windows.

    Exponential smoothing is fitted to the first `ets_windows` of them, whose number is told as "ets_windows", with the
    model's own MASE and loss there as "ets_windows_mase" and "ets_windows_mean_wql".
    """

    def __init__(self, preprocessing: Mapping[str, Any], *, baselines: bool = True, ets_windows: int = 0) -> None:
        self.options = Preprocessing.of(preprocessing)
        self.baselines, self.ets_windows = baselines, ets_windows
        self.sums = {"": np.zeros(num_sums(self.options.quantiles))}

    def update(self, outputs: Mapping[str, np.ndarray], samples: Sequence[ForecastSample]) -> None:
        """`outputs["samples"]` [B, S, P] of the samples in order."""
        if not samples:
            return
        self._add("", outputs["samples"], samples)
        if not self.baselines:
            return
        horizon, season = self.options.prediction_length, self.options.season_length
        targets = [sample.input.target_T for sample in samples]
        self._add("naive_", np.stack([naive(one, horizon) for one in targets])[:, None], samples)
        self._add(
            "seasonal_naive_", np.stack([seasonal_naive(one, horizon, season) for one in targets])[:, None], samples
        )
        missing = self.ets_windows - int(self.sums["ets_"][_PLAIN.index("windows")] if "ets_" in self.sums else 0)
        if missing > 0:
            self._add_ets(outputs["samples"][:missing], samples[:missing])

    def _add_ets(self, samples_BSP: np.ndarray, samples: Sequence[ForecastSample]) -> None:
        options = self.options
        try:
            paths = [
                ets(
                    sample.input.target_T,
                    options.prediction_length,
                    options.season_length,
                    num_samples=options.num_samples,
                    seed=stream_seed(0, "ets", sample.name),
                )
                for sample in samples
            ]
        except MissingToolError as error:
            warn(f"no figures of exponential smoothing: {error.what}")
            self.ets_windows = 0
            return
        self._add("ets_", np.stack(paths), samples)
        self._add("ets_windows_", samples_BSP, samples)

    def _add(self, name: str, samples_BSP: np.ndarray, samples: Sequence[ForecastSample]) -> None:
        target_BP = np.stack([sample.label.target_P for sample in samples])
        error_B = np.asarray([sample.label.seasonal_error for sample in samples])
        sums = window_sums(samples_BSP, target_BP, error_B, self.options.quantiles)
        self.sums[name] = self.sums.get(name, 0) + sums

    def compute(self) -> dict[str, float]:
        """All figures of the model; of each baseline MASE, ND, RMSE and mean quantile loss."""
        levels = self.options.quantiles
        scores = figures(self.sums[""], levels)
        for name, sums in self.sums.items():
            if name:
                kept = ("mase", "mean_wql") if name == "ets_windows_" else ("mase", "nd", "rmse", "mean_wql")
                scores |= {f"{name}{key}": value for key, value in figures(sums, levels).items() if key in kept}
        if "ets_" in self.sums:
            scores["ets_windows"] = float(self.sums["ets_"][_PLAIN.index("windows")])
        return scores
