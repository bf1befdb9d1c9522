"""Pictures of forecasts on a split: fan charts, error by step ahead, and how often the truth lies where it should.

Shape letters: B windows, P steps to forecast, Q quantile levels, S samples.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lab.nn.plots import new_figure, save_figure
from lab.tasks.forecasting.baselines import naive, seasonal_naive
from lab.tasks.forecasting.data import EvalWindows
from lab.tasks.forecasting.responses import quantiles_of
from lab.tasks.forecasting.windows import Preprocessing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NUM_FANS = 12
_HISTORY_PER_HORIZON = 3
_LEVELS = np.arange(0.05, 0.96, 0.05)


def draw_all(
    windows: EvalWindows, samples_BSP: np.ndarray, options: Preprocessing, folder: Path, split: str
) -> list[Path]:
    """`fans.png`, `horizon.png` and `coverage.png` in `folder`."""
    target_BP = np.stack([windows[index].label.target_P for index in range(len(windows))])
    return [
        plot_fans(windows, samples_BSP, folder, split),
        plot_horizon(windows, samples_BSP, target_BP, options, folder, split),
        plot_coverage(samples_BSP, target_BP, folder, split),
    ]


def plot_fans(windows: EvalWindows, samples_BSP: np.ndarray, folder: Path, split: str) -> Path:
    """`fans.png`: evenly chosen windows; the truth over the median and the 50 % and 90 % bands."""
    chosen = np.unique(np.linspace(0, len(windows) - 1, min(NUM_FANS, len(windows))).astype(int))
    figure = new_figure(15, 2.6 * -(-len(chosen) // 3) + 0.5)
    figure.suptitle(f"Forecasts with 50 % and 90 % bands, {split} split")
    axes = figure.subplots(-(-len(chosen) // 3), 3, squeeze=False).ravel()
    for axis in axes[len(chosen) :]:
        axis.set_axis_off()
    for axis, index in zip(axes, chosen.tolist(), strict=False):
        _fan(axis, windows, index, samples_BSP[index])
    return save_figure(figure, folder / "fans.png")


def _fan(axis: Axes, windows: EvalWindows, index: int, samples_SP: np.ndarray) -> None:
    sample = windows[index]
    horizon, origin = windows.horizon, len(sample.input)
    history = sample.input.target_T[-_HISTORY_PER_HORIZON * horizon :]
    ahead = np.arange(origin, origin + horizon)
    low, lower, middle, upper, high = quantiles_of(samples_SP[None], (0.05, 0.25, 0.5, 0.75, 0.95))[0]
    axis.fill_between(ahead, low, high, color="tab:blue", alpha=0.2, linewidth=0)
    axis.fill_between(ahead, lower, upper, color="tab:blue", alpha=0.35, linewidth=0)
    axis.plot(ahead, middle, color="tab:blue", linewidth=1.2, label="median")
    axis.plot(np.arange(origin - len(history), origin), history, color="black", linewidth=0.8)
    axis.plot(ahead, sample.label.target_P, color="black", linewidth=0.8, linestyle="--", label="truth")
    axis.set_title(sample.name, fontsize=8)
    axis.tick_params(labelsize=7)
    axis.legend(frameon=False, fontsize=6)


def plot_horizon(
    windows: EvalWindows,
    samples_BSP: np.ndarray,
    target_BP: np.ndarray,
    options: Preprocessing,
    folder: Path,
    split: str,
) -> Path:
    """`horizon.png`: ND by step ahead, beside the naive forecasts'."""
    histories = [windows[index].input.target_T for index in range(len(windows))]
    horizon, season = options.prediction_length, options.season_length
    forecasts = {
        "DeepAR, median": quantiles_of(samples_BSP, (0.5,))[:, 0],
        f"seasonal naive ({season})": np.stack([seasonal_naive(one, horizon, season) for one in histories]),
        "naive": np.stack([naive(one, horizon) for one in histories]),
    }
    figure = new_figure(7.5, 4)
    axis = figure.subplots()
    truth_P = np.maximum(np.nansum(np.abs(target_BP), axis=0), np.finfo(float).tiny)
    for name, forecast_BP in forecasts.items():
        error_P = np.nansum(np.abs(forecast_BP - target_BP), axis=0)
        axis.plot(np.arange(1, horizon + 1), error_P / truth_P, label=name, marker="." if horizon < 50 else "")
    axis.set_xlabel("steps ahead")
    axis.set_ylabel("sum of absolute errors / sum of values")
    axis.set_ylim(bottom=0)
    axis.set_title(f"Error by step ahead, {split} split ({len(windows):,} windows)")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    return save_figure(figure, folder / "horizon.png")


def plot_coverage(samples_BSP: np.ndarray, target_BP: np.ndarray, folder: Path, split: str) -> Path:
    """`coverage.png`: share of the truth below each quantile; the diagonal is a calibrated forecast."""
    quantiles_BQP = quantiles_of(samples_BSP, _LEVELS)
    known_BP = ~np.isnan(target_BP)
    below_BQP = (target_BP[:, None] <= quantiles_BQP) & known_BP[:, None]
    shares_Q = below_BQP.sum(axis=(0, 2)) / max(int(known_BP.sum()), 1)
    figure = new_figure(5, 5)
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle="--")
    axis.plot(_LEVELS, shares_Q, marker=".")
    axis.set_xlabel("quantile level")
    axis.set_ylabel("share of the truth below it")
    axis.set_title(f"Coverage, {split} split")
    axis.set_aspect("equal")
    axis.grid(alpha=0.3)
    return save_figure(figure, folder / "coverage.png")
