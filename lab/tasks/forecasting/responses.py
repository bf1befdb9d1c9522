"""A forecast, and the forms in which requests and forecasts travel (DAR-O5..O7). JSON and numpy alone.

Shape letters: P steps to forecast, S samples.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lab.core.errors import DataError
from lab.data.series.frequency import Frequency
from lab.data.series.jsonl import parse_lines
from lab.data.series.series import Series, from_record

ACCEPTS = ("application/json", "application/jsonlines")
"""Content types of responses, the first as default."""
CONTENT_TYPES = ("application/json", "application/jsonlines", "application/x-jsonlines")
OUTPUT_TYPES = ("mean", "quantiles", "samples")
BATCH_VARIABLE = "DEEPAR_INFERENCE_CONFIG"
_DEFAULTS: dict[str, Any] = {
    "num_samples": 100,
    "output_types": ["mean", "quantiles"],
    "quantiles": ["0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9"],
}
MAX_SAMPLES = 10_000


@dataclass(frozen=True)
class Forecast:
    """Sample paths of one series' future.

    `samples_SP` float32; `start` is the time of the first forecast value; `num_observed` the values of the context
    that were there, out of `context_length`.
    """

    name: str
    start: np.datetime64
    frequency: str
    samples_SP: np.ndarray
    quantiles: tuple[str, ...] = ("0.1", "0.5", "0.9")
    output_types: tuple[str, ...] = ("mean", "quantiles")
    num_observed: int = 0
    context_length: int = 0

    def quantile(self, level: float) -> np.ndarray:
        """Float32 [P]."""
        values: np.ndarray = quantiles_of(self.samples_SP[None], (level,))[0, 0]
        return values


@dataclass(frozen=True)
class Request:
    """A parsed request: one series, or what is wrong with it, per instance; options for sampling and the response.

    `lines` tells that the request was JSON Lines, each answered by a line of its own.
    """

    inputs: list[Series | DataError]
    options: dict[str, Any] = field(default_factory=dict)
    lines: bool = False


def quantiles_of(samples_BSP: np.ndarray, levels: Sequence[float] | np.ndarray) -> np.ndarray:
    """Empirical quantiles [B, levels, P]: of the sorted samples the one at (S - 1) * level, rounded."""
    ordered_BSP = np.sort(samples_BSP, axis=1)
    places = np.rint((samples_BSP.shape[1] - 1) * np.asarray(levels)).astype(int)
    chosen: np.ndarray = ordered_BSP[:, places]
    return chosen


def to_record(prediction: Forecast, labels: Sequence[str]) -> dict[str, Any]:
    """What `lab predict` prints of one series: {"item_id", "start", "freq", "context", "mean", "quantiles"...}."""
    return {
        "item_id": prediction.name,
        "start": str(prediction.start).replace("T", " "),
        "freq": prediction.frequency,
        "context": {"observed": prediction.num_observed, "length": prediction.context_length},
        **answer_of(prediction),
    }


def answer_of(prediction: Forecast) -> dict[str, Any]:
    """One element of "predictions" (DAR-O6)."""
    answer: dict[str, Any] = {}
    if "quantiles" in prediction.output_types:
        levels = [float(level) for level in prediction.quantiles]
        values = quantiles_of(prediction.samples_SP[None], levels)[0]
        answer["quantiles"] = {name: row.tolist() for name, row in zip(prediction.quantiles, values, strict=True)}
    if "samples" in prediction.output_types:
        answer["samples"] = prediction.samples_SP.tolist()
    if "mean" in prediction.output_types:
        answer["mean"] = prediction.samples_SP.mean(axis=0).tolist()
    return answer


def respond(prediction: Forecast, accept: str = ACCEPTS[0]) -> bytes:
    """The endpoint's response for one series. Raises DataError for a content type that is not offered."""
    return write_response([prediction], accept)


def write_response(
    predictions: Sequence[Forecast | DataError], accept: str = ACCEPTS[0], options: Mapping[str, Any] | None = None
) -> bytes:
    """{"predictions": [...]} (DAR-O6), or with JSON Lines one object per line in order (DAR-O7).

    A series that could not be forecast is answered by {"error": ...} in its place.

    Raises:
        DataError: a content type that is not offered.
    """
    kind = accept.split(";")[0].strip() or ACCEPTS[0]
    answers = [{"error": one.to_dict()} if isinstance(one, DataError) else answer_of(one) for one in predictions]
    if kind in ("*/*", ACCEPTS[0]):
        return json.dumps({"predictions": answers}).encode()
    if kind in CONTENT_TYPES:
        return "".join(json.dumps(answer) + "\n" for answer in answers).encode()
    raise DataError("the response cannot be sent in that form", got=accept, expected=", ".join(ACCEPTS))


def read_request(body: bytes, content_type: str = ACCEPTS[0], *, horizon: int = 0) -> Request:
    """A request in either form (DAR-O5, O7); JSON Lines take their configuration from DEEPAR_INFERENCE_CONFIG.

    Args:
        horizon: steps to forecast, which dynamic features must cover; without it `preprocess` checks them.

    Raises:
        DataError: not JSON, no instances, or a configuration that cannot be used.
    """
    kind = content_type.split(";")[0].strip()
    if kind not in CONTENT_TYPES:
        raise DataError("the request's content type is not understood", got=kind, expected=", ".join(CONTENT_TYPES))
    if kind != CONTENT_TYPES[0]:
        inputs = [item for _, item in parse_lines(body, "line", horizon=horizon)]
        return Request(inputs, _configuration(_environment(), BATCH_VARIABLE), lines=True)
    parsed = _json(body, "the request")
    if not isinstance(parsed, dict) or not isinstance(parsed.get("instances"), list):
        raise DataError(
            "the request has no instances",
            got=sorted(parsed) if isinstance(parsed, dict) else type(parsed).__name__,
            expected='{"instances": [{"start": ..., "target": [...]}, ...], "configuration": {...}} (DAR-O5)',
        )
    found: list[Series | DataError] = []
    for number, record in enumerate(parsed["instances"]):
        try:
            found.append(from_record(record, f"instances[{number}]", horizon=horizon))
        except DataError as error:
            found.append(error)
    return Request(found, _configuration(parsed.get("configuration") or {}, "configuration"))


def _environment() -> dict[str, Any]:
    text = os.environ.get(BATCH_VARIABLE)
    return dict(_DEFAULTS) if not text else _DEFAULTS | _json(text.encode(), BATCH_VARIABLE)


def _json(body: bytes, what: str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{what} is no JSON", got=error) from error


def _configuration(raw: Any, where: str) -> dict[str, Any]:
    """Checked options of sampling and of the response. Raises DataError."""
    if not isinstance(raw, dict) or set(raw) - set(_DEFAULTS):
        raise DataError(f"{where} is not understood", got=raw, expected=", ".join(_DEFAULTS))
    options: dict[str, Any] = {}
    if "num_samples" in raw:
        count = raw["num_samples"]
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_SAMPLES:
            raise DataError(f"{where}: num_samples cannot be used", got=count, expected=f"1 to {MAX_SAMPLES}")
        options["num_samples"] = count
    if "output_types" in raw:
        options["output_types"] = checked_types(raw["output_types"])
    if "quantiles" in raw:
        options["quantiles"] = checked_levels(raw["quantiles"])
    return options


def checked_types(raw: Any) -> tuple[str, ...]:
    """Raises DataError when something else than mean, quantiles and samples is asked for."""
    names = tuple(raw) if isinstance(raw, list | tuple) else (raw,)
    if not names or not all(isinstance(name, str) and name in OUTPUT_TYPES for name in names):
        raise DataError("output_types cannot be used", got=raw, expected=", ".join(OUTPUT_TYPES))
    return names


def checked_levels(raw: Any) -> tuple[str, ...]:
    """Quantile levels as the strings that name them in the response. Raises DataError."""
    try:
        names = tuple(str(level) for level in (raw.split(",") if isinstance(raw, str) else raw))
        good = bool(names) and all(0 < float(name) < 1 for name in names)
    except (TypeError, ValueError):
        good = False
    if not good:
        raise DataError("quantiles cannot be used", got=raw, expected='numbers between 0 and 1, such as ["0.1", "0.9"]')
    return names


def first_stamp(series: Series, frequency: str) -> np.datetime64:
    """The time of the first value after the series."""
    parsed = Frequency.parse(frequency)
    ordinal = np.asarray([parsed.ordinal(series.start) + parsed.step * len(series)])
    stamp: np.datetime64 = parsed.of_ordinals(ordinal).astype("datetime64[s]")[0]
    return stamp
