"""Windows of series as the network's arrays: the one place where training, evaluation and serving make them.

Shape letters: B windows, C context, D dynamic features, F features of a step, L lags, N series, P steps to forecast,
T time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from lab.core.errors import DataError
from lab.core.signature import Signature, TensorSpec
from lab.data.preprocess import from_manifest
from lab.data.series.frequency import Frequency
from lab.data.series.series import Series

Arrays = dict[str, np.ndarray]
Likelihood = Literal["student-T", "gaussian", "negative-binomial", "beta", "deterministic-L1"]
NUM_PARAMETERS: dict[str, int] = {
    "student-T": 3, "gaussian": 2, "negative-binomial": 2, "beta": 2, "deterministic-L1": 1
}  # fmt: skip
_REQUIRED = ("frequency", "context_length", "prediction_length", "lags", "likelihood", "default_scale")


@dataclass(frozen=True)
class Preprocessing:
    """From a series to the network's input and back; the manifest's "preprocessing".

    `default_scale` stands in for the scale of a window without observed values, or of zeros alone. `items` are the
    names of the series that were trained with a vector of their own, `cardinality` counts the values of the other
    categories.
    """

    frequency: str
    context_length: int
    prediction_length: int
    lags: tuple[int, ...]
    likelihood: Likelihood
    default_scale: float
    scaling: bool = True
    scale_feature: bool = False
    cardinality: tuple[int, ...] = ()
    items: tuple[str, ...] = ()
    num_static_real: int = 0
    num_dynamic: int = 0
    num_samples: int = 100
    quantiles: tuple[float, ...] = (0.1, 0.5, 0.9)
    season_length: int = 1

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Preprocessing:
        """Raises ArtifactError on unknown or missing fields."""
        return from_manifest(cls, data, _REQUIRED)

    @property
    def past_length(self) -> int:
        """Values before the forecast that the network sees: the context and what its lags reach back to."""
        return self.context_length + max(self.lags) - 1

    @property
    def num_features(self) -> int:
        """Of one step: calendar, age, and dynamic features."""
        return Frequency.parse(self.frequency).num_features + 1 + self.num_dynamic

    @property
    def all_cardinalities(self) -> tuple[int, ...]:
        """Of `static_cat`: the categories, then the item."""
        return self.cardinality + ((len(self.items),) if self.items else ())

    @property
    def num_static(self) -> int:
        """Width of `static_real`, with the logarithm of the scale."""
        return self.num_static_real + self.scale_feature

    def signature(self) -> Signature:
        """Of the whole model: a window in, sample paths out."""
        steps = self.context_length + self.prediction_length - 1
        inputs = [
            TensorSpec("past_target", "float32", ("batch", self.past_length)),
            TensorSpec("past_observed", "float32", ("batch", self.past_length)),
            TensorSpec("features", "float32", ("batch", steps, self.num_features)),
        ]
        if self.all_cardinalities:
            inputs.append(TensorSpec("static_cat", "int64", ("batch", len(self.all_cardinalities))))
        if self.num_static_real:
            inputs.append(TensorSpec("static_real", "float32", ("batch", self.num_static_real)))
        samples = TensorSpec("samples", "float32", ("batch", "num_samples", self.prediction_length))
        return Signature(tuple(inputs), (samples,))

    def lag_positions(self, steps: np.ndarray) -> np.ndarray:
        """Where the lags of unrolled `steps` lie in past and future put together: int64 [steps, L].

        Step s predicts the value s + 1 steps after the first one of the context.
        """
        first = self.past_length - self.context_length
        positions: np.ndarray = first + 1 + steps[:, None] - np.asarray(self.lags, np.int64)[None, :]
        return positions


@dataclass(frozen=True)
class SeriesArrays:
    """Series behind each other in one array, with room for a whole window before the first and after the last value.

    `skipped_N` counts the values of each series that were left out at its beginning.
    """

    options: Preprocessing
    target_T: np.ndarray
    observed_T: np.ndarray
    dynamic_TD: np.ndarray
    offset_N: np.ndarray
    ordinal_N: np.ndarray
    skipped_N: np.ndarray
    static_cat_NK: np.ndarray
    static_real_NR: np.ndarray

    @classmethod
    def of(cls, series: Sequence[Series], options: Preprocessing, skipped: Sequence[int] | None = None) -> SeriesArrays:
        """Raises DataError when static or dynamic features do not fit what the model was trained with."""
        room = max(options.past_length, options.prediction_length)
        skipped = skipped or [0] * len(series)
        lengths = [len(one) - skip for one, skip in zip(series, skipped, strict=True)]
        offset_N = room + np.concatenate(([0], np.cumsum(np.asarray(lengths, np.int64) + room)))
        total = int(offset_N[-1])
        target_T, dynamic_TD = np.full(total, np.nan, np.float32), np.zeros((total, options.num_dynamic), np.float32)
        frequency = Frequency.parse(options.frequency)
        for one, skip, length, offset in zip(series, skipped, lengths, offset_N.tolist(), strict=False):
            target_T[offset : offset + length] = one.target_T[skip:]
            if options.num_dynamic:
                rows = dynamic_of(one, options)[:, skip : skip + length + room]
                dynamic_TD[offset : offset + rows.shape[1]] = rows.T
        observed_T = ~np.isnan(target_T)
        return cls(
            options=options,
            target_T=np.where(observed_T, target_T, np.float32(0)),
            observed_T=observed_T.astype(np.float32),
            dynamic_TD=dynamic_TD,
            offset_N=offset_N[:-1],
            ordinal_N=np.asarray([frequency.ordinal(one.start) for one in series], np.int64),
            skipped_N=np.asarray(skipped, np.int64),
            static_cat_NK=np.asarray([categories_of(one, options) for one in series], np.int64).reshape(
                len(series), len(options.all_cardinalities)
            ),
            static_real_NR=np.asarray([reals_of(one, options) for one in series], np.float32).reshape(
                len(series), options.num_static_real
            ),
        )

    def inputs(self, series_B: np.ndarray, origin_B: np.ndarray) -> Arrays:
        """The model's inputs for forecasts of `series_B` from step `origin_B` on, counted from each series' start."""
        options = self.options
        rows_B = self.offset_N[series_B] + origin_B - self.skipped_N[series_B]
        past_BT = rows_B[:, None] + self._past
        arrays = {
            "past_target": self.target_T[past_BT],
            "past_observed": self.observed_T[past_BT],
            "features": self._features(series_B, origin_B, rows_B),
        }
        if options.all_cardinalities:
            arrays["static_cat"] = self.static_cat_NK[series_B]
        if options.num_static_real:
            arrays["static_real"] = self.static_real_NR[series_B]
        return arrays

    def future(self, series_B: np.ndarray, origin_B: np.ndarray) -> Arrays:
        """What comes after the origin: "future_target" and "future_observed" float32 [B, P]."""
        rows_B = self.offset_N[series_B] + origin_B - self.skipped_N[series_B]
        future_BP = rows_B[:, None] + np.arange(self.options.prediction_length)
        return {"future_target": self.target_T[future_BP], "future_observed": self.observed_T[future_BP]}

    @cached_property
    def _past(self) -> np.ndarray:
        return np.arange(-self.options.past_length, 0)

    @cached_property
    def _frequency(self) -> Frequency:
        return Frequency.parse(self.options.frequency)

    def _features(self, series_B: np.ndarray, origin_B: np.ndarray, rows_B: np.ndarray) -> np.ndarray:
        """Float32 [B, C + P - 1, F]: calendar, age and dynamic features of the predicted steps."""
        steps_T = np.arange(1 - self.options.context_length, self.options.prediction_length)
        steps_BT = origin_B[:, None] + steps_T
        ordinals_BT = self.ordinal_N[series_B][:, None] + self._frequency.step * steps_BT
        calendar_BTF = self._frequency.features(ordinals_BT)
        age_BT1 = np.log10(np.maximum(steps_BT, 0) + np.float32(2), dtype=np.float32)[..., None]
        parts = [calendar_BTF, age_BT1]
        if self.options.num_dynamic:
            parts.append(self.dynamic_TD[rows_B[:, None] + steps_T])
        return np.concatenate(parts, axis=-1)


def categories_of(series: Series, options: Preprocessing) -> tuple[int, ...]:
    """Raises DataError when a category is missing, too many, or was not seen in training."""
    if len(series.cat) < len(options.cardinality):
        raise DataError(
            f"{series.name} lacks categories",
            got=f"cat {list(series.cat)}",
            expected=f"{len(options.cardinality)} values, as in training",
        )
    cat = series.cat[: len(options.cardinality)]
    for place, (value, cardinality) in enumerate(zip(cat, options.cardinality, strict=True)):
        if value >= cardinality:
            raise DataError(
                f"{series.name}: cat[{place}] was not seen in training",
                got=value,
                expected=f"0 to {cardinality - 1}",
                hint="train again with series of this category (DAR-I4)",
            )
    if not options.items:
        return cat
    if series.name not in options.items:
        raise DataError(
            f"the series '{series.name}' was not seen in training, and this model has a vector per series",
            expected=f"one of {len(options.items)} names, such as {', '.join(options.items[:3])}",
            hint="give its item_id, or train with data.item_embedding: false",
        )
    return (*cat, options.items.index(series.name))


def reals_of(series: Series, options: Preprocessing) -> tuple[float, ...]:
    """Raises DataError when their number is not that of training."""
    if len(series.static_real) != options.num_static_real:
        raise DataError(
            f"{series.name} has another number of static features than in training",
            got=len(series.static_real),
            expected=f"feat_static_real with {options.num_static_real} values",
        )
    return series.static_real


def dynamic_of(series: Series, options: Preprocessing) -> np.ndarray:
    """The trained-with dynamic features [D, T]. Raises DataError when there are fewer."""
    if series.dynamic_DT is None or len(series.dynamic_DT) < options.num_dynamic:
        raise DataError(
            f"{series.name} lacks dynamic features",
            got=f"{series.num_dynamic} in dynamic_feat",
            expected=f"{options.num_dynamic}, as in training",
        )
    return series.dynamic_DT[: options.num_dynamic]


def scale_of(past_target: Any, past_observed: Any, options: Preprocessing, xp: Any = np) -> Any:
    """Float32 [B, 1]: mean absolute observed value of the context; of the whole past where that is zero or nothing was
    observed; else the training data's. `xp` is numpy or torch, which share these operations."""
    if not options.scaling:
        return xp.ones_like(past_target[:, :1])
    absolute_BT = abs(past_target) * past_observed
    scales = []
    for first in (-options.context_length, 0):
        total_B1 = absolute_BT[:, first:].sum(1, keepdims=True)
        count_B1 = past_observed[:, first:].sum(1, keepdims=True)
        scales.append(total_B1 / xp.clip(count_B1, 1, None))
    context_B1, past_B1 = scales
    scale_B1 = xp.where(context_B1 > 0, context_B1, past_B1)
    return xp.where(scale_B1 > 0, scale_B1, xp.full_like(scale_B1, options.default_scale))
