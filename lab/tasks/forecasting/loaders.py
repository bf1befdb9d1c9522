"""Batches of windows gathered at once from arrays in memory; both loaders are `lab.nn.learning.ResumableLoader`.

Shape letters: B windows, N series.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from lab.core.errors import DataError
from lab.core.seeding import stream
from lab.nn.loaders import Batch, EpochLoader, EpochPosition
from lab.tasks.forecasting.windows import SeriesArrays

MIN_PAST = 1
"""Values before a training window's origin; the rest of its context is padding, as for a series that begins there."""


def window_weights(lengths_N: np.ndarray, scale_N: np.ndarray, horizon: int, sampling: str) -> np.ndarray:
    """How often each series is drawn, float64 [N], summing to one.

    Raises:
        DataError: no series has room for a window.
    """
    counts_N = np.maximum(lengths_N - horizon - MIN_PAST + 1, 0).astype(np.float64)
    has_room_N = counts_N > 0
    if not has_room_N.any():
        raise DataError(
            "no training series has room for a window",
            got=f"at most {int(lengths_N.max(initial=0))} values that training may see",
            expected=f"{horizon + MIN_PAST} or more",
            hint="lower model.prediction_length, give longer series, or set data.hold_out: false",
        )
    weights_N = {"positions": counts_N, "series": has_room_N.astype(np.float64), "scale": scale_N * has_room_N}[
        sampling
    ]
    if not weights_N.any():
        weights_N = counts_N
    weights: np.ndarray = weights_N / weights_N.sum()
    return weights


class WindowLoader(EpochPosition):
    """Random windows of training series: a batch depends on (seed, epoch, its number) alone."""

    def __init__(
        self,
        arrays: SeriesArrays,
        lengths_N: np.ndarray,
        weights_N: np.ndarray,
        *,
        seed: int,
        windows_per_epoch: int,
        batch_size: int,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        super().__init__(-(-windows_per_epoch // num_ranks), batch_size, drop_last=False)
        self._arrays, self._lengths_N = arrays, lengths_N
        self._cumulative_N = np.cumsum(weights_N)
        self._seed, self._rank, self._num_ranks = seed, rank, num_ranks

    def _batches_from(self, start: int) -> Iterator[Batch]:
        for number in range(start, len(self)):
            rng = stream(self._seed, "windows", self.epoch, number * self._num_ranks + self._rank)
            place_B = rng.random(self.batch_size) * self._cumulative_N[-1]
            series_B = np.minimum(
                np.searchsorted(self._cumulative_N, place_B, side="right"), len(self._cumulative_N) - 1
            )
            counts_B = self._lengths_N[series_B] - self._arrays.options.prediction_length - MIN_PAST + 1
            origin_B = MIN_PAST + (rng.random(self.batch_size) * counts_B).astype(np.int64)
            yield _tensors(self._arrays, series_B, origin_B)


class EvalLoader(EpochLoader):
    """Every window of a split in order, with MASE's denominators: "seasonal_error" float32 [B]."""

    def __init__(
        self, arrays: SeriesArrays, series_B: np.ndarray, origin_B: np.ndarray, error_B: np.ndarray, batch_size: int
    ) -> None:
        super().__init__(lambda epoch: np.arange(len(series_B)), batch_size, drop_last=False)
        self._arrays, self._series_B, self._origin_B, self._error_B = arrays, series_B, origin_B, error_B

    def _batches(self, batches: Sequence[np.ndarray]) -> Iterator[Batch]:
        for index_B in batches:
            batch = _tensors(self._arrays, self._series_B[index_B], self._origin_B[index_B])
            yield batch | {"seasonal_error": torch.from_numpy(self._error_B[index_B])}


def _tensors(arrays: SeriesArrays, series_B: np.ndarray, origin_B: np.ndarray) -> dict[str, Tensor]:
    window = arrays.inputs(series_B, origin_B) | arrays.future(series_B, origin_B)
    return {name: torch.from_numpy(array) for name, array in window.items()}
