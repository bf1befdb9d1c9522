"""What a deployed forecaster needs, in numpy: signature, preprocessing, the sampling loop, responses. No torch.

Shape letters: B series, P steps to forecast, S samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lab.core.errors import DataError
from lab.core.signature import Signature, TensorSpec
from lab.data.series.files import SUFFIXES, ReadOptions
from lab.data.series.frequency import Frequency
from lab.data.series.jsonl import content_of, parse_lines
from lab.data.series.series import Series
from lab.tasks.forecasting.generate import generate
from lab.tasks.forecasting.responses import (
    ACCEPTS,
    Forecast,
    checked_levels,
    checked_types,
    first_stamp,
    read_request,
    respond,
    to_record,
    write_response,
)
from lab.tasks.forecasting.windows import NUM_PARAMETERS, Arrays, Preprocessing, SeriesArrays

__all__ = [
    "ACCEPTS",
    "EXTENSIONS",
    "LOOP_OPTIONS",
    "MIN_AGREEMENT",
    "OPTIONS",
    "agreement",
    "aligned",
    "draw",
    "functions",
    "generate",
    "inputs_per_call",
    "load_inputs",
    "postprocess",
    "preprocess",
    "read_request",
    "respond",
    "rows_per_input",
    "scorer",
    "signature",
    "to_record",
    "write_response",
]

EXTENSIONS = (".json", ".jsonl", ".gz", ".parquet")
OPTIONS = ("quantiles", "output_types")
"""Options of `postprocess` that a command may set."""
LOOP_OPTIONS = ("num_samples", "seed")
"""Options of `generate`."""
MIN_AGREEMENT = 0.99
SAME_SHARE = 1e-3
"""Two engines' samples that differ by less than this share of their series' spread are the same."""


def signature(preprocessing: Mapping[str, Any]) -> Signature:
    """Of the whole model."""
    return Preprocessing.of(preprocessing).signature()


def functions(
    preprocessing: Mapping[str, Any], *, num_layers: int, num_cells: int, static: int
) -> dict[str, Signature]:
    """Signatures of "encode" and "step"; `static` is the width of what encode hands on about the series itself.

    In "step" the batch counts series times samples.
    """
    options = Preprocessing.of(preprocessing)
    width = len(options.lags) + options.num_features
    shape = ("batch", num_layers, num_cells)
    states = tuple(TensorSpec(name, "float32", shape) for name in ("hidden", "cell"))
    next_states = tuple(TensorSpec(f"next_{state.name}", "float32", shape) for state in states)
    parameters = TensorSpec("parameters", "float32", ("batch", NUM_PARAMETERS[options.likelihood]))
    encode = [TensorSpec("inputs", "float32", ("batch", options.context_length, width))]
    if options.all_cardinalities:
        encode.append(TensorSpec("static_cat", "int64", ("batch", len(options.all_cardinalities))))
    if options.num_static:
        encode.append(TensorSpec("static_real", "float32", ("batch", options.num_static)))
    handed_on = (TensorSpec("static", "float32", ("batch", static)),) if static else ()
    step = TensorSpec("inputs", "float32", ("batch", width + static))
    return {
        "encode": Signature(tuple(encode), (parameters, *states, *handed_on)),
        "step": Signature((step, *states), (parameters, *next_states)),
    }


def rows_per_input(preprocessing: Mapping[str, Any]) -> dict[str, int]:
    """Rows of each function that one series needs."""
    return {"encode": 1, "step": Preprocessing.of(preprocessing).num_samples}


def inputs_per_call(preprocessing: Mapping[str, Any]) -> int | None:
    """How many series `preprocess` takes at most: any number."""
    return None


def load_inputs(path: Path) -> list[Series | DataError]:
    """The series of a JSON Lines or Parquet file (DAR-I1); a line that cannot be understood is an error in its place.

    Raises:
        DataError: the file cannot be read, or has no series.
    """
    if path.name.lower().endswith(SUFFIXES["parquet"]):
        from lab.data.series.parquet import read

        # Dynamic features of a request reach beyond the target; how far, `preprocess` checks.
        return list(read(path, ReadOptions(Frequency(1, "D"), horizon=0)))
    found = [item for _, item in parse_lines(content_of(path), str(path), horizon=0)]
    if not found:
        raise DataError(f"{path} has no series", expected="one JSON object per line (DAR-I2)")
    return found


def preprocess(inputs: Sequence[Series], preprocessing: Mapping[str, Any]) -> Arrays:
    """Series to the model's input, one row each.

    A series shorter than the context is padded as unobserved.

    Raises:
        DataError: nothing was observed, a category was not seen in training, or features do not fit.
        ArtifactError: the preprocessing is not understood.
    """
    options = Preprocessing.of(preprocessing)
    for series in inputs:
        check(series, options)
    skipped = [max(0, len(one) - options.past_length) for one in inputs]
    arrays = SeriesArrays.of(inputs, options, skipped)
    return arrays.inputs(np.arange(len(inputs)), np.asarray([len(one) for one in inputs], np.int64))


def check(series: Series, options: Preprocessing) -> None:
    """Raises DataError when there is nothing to forecast from, or features do not reach to the forecast's end."""
    if not np.any(~np.isnan(series.target_T[-options.past_length :])):
        raise DataError(
            f"{series.name} cannot be forecast: nothing was observed in its last {options.past_length} steps",
            got="an empty target" if not len(series) else f"{len(series)} values, all missing there",
            expected="one value or more",
        )
    wanted = len(series) + options.prediction_length
    if options.num_dynamic and series.dynamic_DT is not None and series.dynamic_DT.shape[1] < wanted:
        raise DataError(
            f"{series.name}: dynamic_feat is too short",
            got=f"{series.dynamic_DT.shape[1]} values",
            expected=f"{wanted}: {len(series)} of the target + {options.prediction_length} to be forecast (DAR-I5)",
        )


def postprocess(
    outputs: Mapping[str, np.ndarray],
    labels: Sequence[str],
    inputs: Sequence[Series],
    preprocessing: Mapping[str, Any],
    *,
    quantiles: Any = None,
    output_types: Any = None,
) -> list[Forecast]:
    """One forecast per series.

    Args:
        quantiles: levels to report, strings or numbers; default as trained.
        output_types: of mean, quantiles and samples.

    Raises:
        DataError: outputs and inputs differ in number, or an option cannot be used.
    """
    options, samples_BSP = Preprocessing.of(preprocessing), outputs["samples"]
    if len(samples_BSP) != len(inputs):
        raise DataError("outputs and inputs differ in number", got=f"{len(samples_BSP)} and {len(inputs)}")
    levels = checked_levels(quantiles if quantiles is not None else [f"{level:g}" for level in options.quantiles])
    types = checked_types(output_types if output_types is not None else ("mean", "quantiles"))
    return [
        Forecast(
            name=series.name,
            start=first_stamp(series, options.frequency),
            frequency=options.frequency,
            samples_SP=samples_SP,
            quantiles=levels,
            output_types=types,
            num_observed=int((~np.isnan(series.target_T[-options.context_length :])).sum()),
            context_length=options.context_length,
        )
        for series, samples_SP in zip(inputs, samples_BSP, strict=True)
    ]


def draw(series: Series, prediction: Forecast, labels: Sequence[str]) -> np.ndarray:
    """A fan chart, uint8 HWC."""
    from lab.tasks.forecasting.draw import fan_chart

    return fan_chart(series, prediction)


def scorer(labels: Sequence[str], preprocessing: Mapping[str, Any], **options: Any) -> Any:
    """Figures of everything given to `update` (`lab.tasks.forecasting.scoring.Scorer`, which takes the options)."""
    from lab.tasks.forecasting.scoring import Scorer

    return Scorer(preprocessing, **options)


def aligned(
    expected: Mapping[str, np.ndarray], actual: Mapping[str, np.ndarray]
) -> tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]:
    """Samples of one seed lie in the same places."""
    return expected, actual


def agreement(expected: Mapping[str, np.ndarray], actual: Mapping[str, np.ndarray]) -> float:
    """Share of samples that are the same in both, to a thousandth of the spread of their series' samples."""
    if "samples" not in expected:
        pairs = [np.isclose(expected[name], actual[name], rtol=SAME_SHARE, atol=SAME_SHARE) for name in expected]
        return float(np.mean([pair.mean() for pair in pairs]))
    ours, theirs = expected["samples"], actual["samples"]
    if not ours.size:
        return 1.0
    middle_B11 = np.median(ours, axis=(1, 2), keepdims=True)
    spread_B11 = np.abs(ours - middle_B11).mean(axis=(1, 2), keepdims=True)
    allowed = SAME_SHARE * np.maximum(spread_B11, np.abs(middle_B11) * SAME_SHARE)
    return float((np.abs(ours - theirs) <= allowed).mean())
