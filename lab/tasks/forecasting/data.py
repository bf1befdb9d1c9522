"""A configuration's series, cut into training, validation and test, and the samples and batches made of them.

Shape letters: B windows, N series.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from lab.artifacts.files import sha256_json
from lab.core.errors import ConfigError, DataError
from lab.core.progress import say, warn
from lab.data.resolve import catalog_entry
from lab.data.series.files import ReadOptions, read_series
from lab.data.series.frequency import Frequency
from lab.data.series.packaged import known, open_known
from lab.data.series.series import Series, digest
from lab.tasks.forecasting.baselines import seasonal_error
from lab.tasks.forecasting.config import ForecastingConfig
from lab.tasks.forecasting.scoring import ForecastSample, Truth
from lab.tasks.forecasting.windows import Preprocessing

SplitName = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class EvalWindows:
    """Forecast origins of a split, in order: `dataset[i]` is a `ForecastSample`."""

    series: Sequence[Series]
    series_B: np.ndarray
    origin_B: np.ndarray
    horizon: int
    season: int
    source: str

    def __len__(self) -> int:
        return len(self.series_B)

    def __getitem__(self, index: int) -> ForecastSample:
        one, origin = self.series[int(self.series_B[index])], int(self.origin_B[index])
        history = one.before(origin, self.horizon)
        truth = Truth(one.target_T[origin : origin + self.horizon], float(self.seasonal_errors[index]))
        return ForecastSample(history, truth, f"{one.name}@{origin}")

    @cached_property
    def seasonal_errors(self) -> np.ndarray:
        """Of the history before each origin, float64."""
        pairs = zip(self.series_B.tolist(), self.origin_B.tolist(), strict=True)
        return np.asarray([seasonal_error(self.series[n].target_T[:origin], self.season) for n, origin in pairs])

    @property
    def digest(self) -> str:
        windows = zip(self.series_B.tolist(), self.origin_B.tolist(), strict=True)
        return sha256_json({"series": digest(self.series), "windows": list(windows), "horizon": self.horizon})


class SeriesSplits:
    """Reads when first needed.

    The test part are the last prediction_length values of each series (and earlier ones, where several windows are
    asked for); validation is the same length before it.
    """

    def __init__(self, config: ForecastingConfig) -> None:
        self.config, self.data = config, config.data
        self._known = known(self.data.dataset) if self.data.dataset else None
        self.frequency = Frequency.parse(self.data.time_freq or (self._known.frequency if self._known else ""))
        self.horizon = config.model.prediction_length or (self._known.prediction_length if self._known else 0)
        given = config.metrics.season_length or (self._known.season_length if self._known else None)
        self.season = given or self.frequency.season
        self._stride = config.backtest.stride or self.horizon
        self._span = self.horizon + (config.backtest.num_windows - 1) * self._stride

    @cached_property
    def train(self) -> list[Series]:
        """Series long enough to be learned from, whole. Raises DataError when there is too little data (DAR-I6)."""
        if self.data.dataset is not None:
            found = open_known(self.data.dataset, self.data.root)
        else:
            assert self.data.train is not None
            found = read_series(self.data.train, self.data.format, self._read_options)
        kept = [one for one in found if len(one) >= self.horizon and not np.isnan(one.target_T).all()]
        if len(kept) < len(found):
            say(f"{len(found) - len(kept)} of {len(found)} series are shorter than {self.horizon} or empty: ignored")
        count = sum(int((~np.isnan(one.target_T)).sum()) for one in kept)
        if count < self.data.min_observations:
            raise DataError(
                "there is too little training data",
                got=f"{count} observed values in {len(kept)} series of at least {self.horizon} steps",
                expected=f"{self.data.min_observations} or more (DAR-I6)",
                hint="add series, or lower data.min_observations",
            )
        return kept

    @cached_property
    def test(self) -> list[Series]:
        """The series whose end is the test. Raises DataError where there are none."""
        if self.data.test is not None:
            return read_series(self.data.test, self.data.format, self._read_options)
        if self.data.dataset is not None:
            return self.train
        raise DataError("there is no test split", hint="give data.test")

    @property
    def _read_options(self) -> ReadOptions:
        columns = self.data.columns.model_dump()
        return ReadOptions(self.frequency, **columns)

    def has(self, split: SplitName) -> bool:
        return split != "test" or self.data.test is not None or self.data.dataset is not None

    @property
    def final(self) -> Literal["validation", "test"]:
        return "test" if self.has("test") else "validation"

    @cached_property
    def train_ends(self) -> np.ndarray:
        """Values of each training series that are not part of the test."""
        lengths_N = np.asarray([len(one) for one in self.train], np.int64)
        return lengths_N - self._span if self.data.dataset is not None else lengths_N

    @cached_property
    def fit_ends(self) -> np.ndarray:
        """Values of each training series that training may see."""
        span = self.horizon if self.has("test") else self._span
        return self.train_ends - span if self.data.hold_out else self.train_ends

    def windows(self, split: Literal["validation", "test"]) -> EvalWindows:
        """Raises DataError when the split has no window with something before and something in it."""
        return self._test_windows if split == "test" else self._validation_windows

    @cached_property
    def _test_windows(self) -> EvalWindows:
        ends_N = np.asarray([len(one) for one in self.test], np.int64)
        return self._windows(self.test, ends_N, self.config.backtest.num_windows, "test", None)

    @cached_property
    def _validation_windows(self) -> EvalWindows:
        number = 1 if self.has("test") else self.config.backtest.num_windows
        limit = self.config.backtest.max_validation_windows
        return self._windows(self.train, self.train_ends, number, "validation", limit)

    def _windows(
        self, series: list[Series], ends_N: np.ndarray, number: int, split: str, limit: int | None
    ) -> EvalWindows:
        found = []
        for index, (one, end) in enumerate(zip(series, ends_N.tolist(), strict=True)):
            for back in reversed(range(number)):
                origin = end - self.horizon - back * self._stride
                past, future = one.target_T[: max(origin, 0)], one.target_T[max(origin, 0) : origin + self.horizon]
                if origin >= 1 and not np.isnan(past).all() and not np.isnan(future).all():
                    found.append((index, origin))
        if len(found) < len(series) * number:
            say(f"{split}: {len(series) * number - len(found)} windows have nothing before or in them and are left out")
        if not found:
            raise DataError(
                f"the {split} split has no window",
                got=f"{len(series)} series",
                expected=f"series longer than {self.horizon} steps",
                hint="lower model.prediction_length or backtest.num_windows",
            )
        pairs = np.asarray(found, np.int64)
        if limit is not None and len(pairs) > limit:
            pairs = pairs[np.linspace(0, len(pairs) - 1, limit).astype(int)]
        return EvalWindows(series, pairs[:, 0], pairs[:, 1], self.horizon, self.season, self.source)

    @property
    def source(self) -> str:
        return self.data.dataset or str(self.data.train)

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """What deployment needs to know of the training data and the configuration."""
        model, metrics, first = self.config.model, self.config.metrics, self.train[0]
        wanted = self.data.num_dynamic_feat
        return Preprocessing(
            frequency=str(self.frequency),
            context_length=model.context_length or self.horizon,
            prediction_length=self.horizon,
            lags=model.lags or self.frequency.lags(),
            likelihood=model.likelihood,
            default_scale=self._default_scale(),
            scaling=model.scaling and model.likelihood != "beta",
            scale_feature=model.scale_feature and model.scaling and model.likelihood != "beta",
            cardinality=self._cardinality(),
            items=tuple(one.name for one in self.train) if self.data.item_embedding else (),
            num_static_real=len(first.static_real),
            num_dynamic=0 if wanted == "ignore" else first.num_dynamic if wanted == "auto" else wanted,
            num_samples=metrics.num_eval_samples,
            quantiles=metrics.test_quantiles,
            season_length=self.season,
        )

    def _default_scale(self) -> float:
        values = np.concatenate(
            [one.target_T[:end] for one, end in zip(self.train, np.maximum(self.fit_ends, 0), strict=True)]
        )
        mean = float(np.nanmean(np.abs(values))) if np.any(~np.isnan(values)) else 0.0
        return mean or 1.0

    def _cardinality(self) -> tuple[int, ...]:
        wanted, categories = self.data.cardinality, [one.cat for one in self.train]
        widths = {len(cat) for cat in categories}
        if wanted == "ignore":
            return ()
        if len(widths) > 1:
            raise DataError("series have different numbers of categories", got=sorted(widths), expected="one number")
        counted = tuple(max(values) + 1 for values in zip(*categories, strict=True))
        if wanted == "auto":
            for place, (values, count) in enumerate(zip(zip(*categories, strict=True), counted, strict=True)):
                if len(set(values)) < count:
                    warn(f"cat[{place}]: {count - len(set(values))} of {count} values never occur in training (DAR-I4)")
            return counted
        if len(wanted) != len(counted) or any(have > told for have, told in zip(counted, wanted, strict=True)):
            raise ConfigError("data.cardinality does not fit the data", got=list(wanted), expected=list(counted))
        return wanted

    def card(self) -> dict[str, Any]:
        """Name, licence, sizes and digests; JSON-able."""
        splits: dict[str, dict[str, Any]] = {
            "train": {
                "source": self.source,
                "num_samples": len(self.train),
                "num_values": int(np.maximum(self.fit_ends, 0).sum()),
                "digest": sha256_json({"series": digest(self.train), "until": self.fit_ends.tolist()}),
            }
        }
        for name in ("validation", "test"):
            if self.has(name):
                windows = self.windows(name)
                splits[name] = {"source": windows.source, "num_samples": len(windows), "digest": windows.digest}
        card: dict[str, Any] = {
            "name": self.source,
            "source": self.source,
            "digest": sha256_json({name: part["digest"] for name, part in splits.items()}),
            "format": catalog_entry(self.data.dataset).format if self.data.dataset else self.data.format,
            "labels": [],
            "splits": splits,
        }
        if self.data.dataset is not None:
            entry = catalog_entry(self.data.dataset)
            card |= {"license": entry.license, "homepage": entry.homepage}
        return card


def training_part(splits: SeriesSplits) -> list[Series]:
    """The training series without what training may not see; dynamic features reach as far as the values."""
    ends = np.maximum(splits.fit_ends, 0).tolist()
    return [one.before(end) for one, end in zip(splits.train, ends, strict=True)]
