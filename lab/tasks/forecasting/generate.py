"""The loop of DeepAR in numpy: encode the past once, then draw a step of every sample path and feed it back.

Shape letters: B series, C context, F features of a step, I inputs of a step, L lags, P steps to forecast, S samples,
T time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lab.tasks.forecasting.sampling import draw_of, noise_tables, table_of
from lab.tasks.forecasting.windows import Arrays, Preprocessing, scale_of

Function = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


def generate(
    functions: Mapping[str, Function],
    inputs: Mapping[str, np.ndarray],
    preprocessing: Mapping[str, Any],
    *,
    num_samples: int | None = None,
    seed: int = 0,
) -> Arrays:
    """Sample paths of the future of every series: {"samples": float32 [B, S, P]}.

    Args:
        functions: "encode" and "step" of any engine.
        inputs: as `Preprocessing.signature` says.
        num_samples: default that of the preprocessing.
        seed: of the uniform numbers; equal seeds give equal samples in every engine and in every batch.
    """
    options = Preprocessing.of(preprocessing)
    count = num_samples or options.num_samples
    batch = len(inputs["past_target"])
    if batch == 0:
        return {"samples": np.zeros((0, count, options.prediction_length), np.float32)}
    scale_B1 = scale_of(inputs["past_target"], inputs["past_observed"], options).astype(np.float32)
    past_BT = inputs["past_target"] / scale_B1
    paths_PBS = _unroll(functions, _Window(options, inputs, scale_B1, past_BT), count, seed)
    samples_BSP = np.ascontiguousarray(paths_PBS.transpose(1, 2, 0)) * scale_B1[..., None]
    if options.likelihood == "negative-binomial":
        np.rint(samples_BSP, out=samples_BSP)  # dividing by the scale and multiplying again must not unmake a count
    return {"samples": samples_BSP}


class _Window:
    """What is known before the forecast, in units of the scale."""

    def __init__(self, options: Preprocessing, inputs: Mapping[str, np.ndarray], scale: np.ndarray, past: np.ndarray):
        self.options, self.inputs, self.scale_B1, self.past_BT = options, inputs, scale, past
        steps_P = np.arange(options.prediction_length)
        behind_PL = past.shape[1] + steps_P[:, None] - np.asarray(options.lags)
        # Lags that do not reach behind the origin yet are drawn values; what is gathered for them is not read.
        self.lagged_BPL = past[:, np.minimum(behind_PL, past.shape[1] - 1)]

    def encoder_inputs(self) -> Arrays:
        """What "encode" takes."""
        options, steps = self.options, np.arange(self.options.context_length)
        lagged_BCL = self.past_BT[:, options.lag_positions(steps)]
        features_BCF = self.inputs["features"][:, : options.context_length]
        feed = {"inputs": np.concatenate([lagged_BCL, features_BCF], axis=-1)}
        if options.all_cardinalities:
            feed["static_cat"] = self.inputs["static_cat"]
        if options.num_static:
            parts = [self.inputs["static_real"]] if options.num_static_real else []
            parts += [np.log(self.scale_B1)] if options.scale_feature else []
            feed["static_real"] = np.concatenate(parts, axis=-1)
        return feed

    def write_step(self, x_BSI: np.ndarray, paths_PBS: np.ndarray, step: int) -> None:
        """Fill in lags and features of one step; lags that reach behind the origin are the same for all samples."""
        lags, first = self.options.lags, self.options.context_length - 1
        num_sampled = bisect_right(lags, step)
        for column in range(num_sampled):
            x_BSI[:, :, column] = paths_PBS[step - lags[column]]
        x_BSI[:, :, num_sampled : len(lags)] = self.lagged_BPL[:, None, step, num_sampled:]
        features_BF = self.inputs["features"][:, first + step]
        x_BSI[:, :, len(lags) : len(lags) + features_BF.shape[1]] = features_BF[:, None]


def _unroll(functions: Mapping[str, Function], window: _Window, num_samples: int, seed: int) -> np.ndarray:
    """Sample paths in units of the scale, float32 [P, B, S]."""
    options, batch = window.options, len(window.scale_B1)
    draw = draw_of(options.likelihood)
    tables = noise_tables(options.likelihood, seed, num_samples, options.prediction_length)
    table_B = table_of(window.past_BT[:, -options.context_length :], len(tables))
    encoded = functions["encode"](window.encoder_inputs())
    static_BS = encoded.get("static", np.zeros((batch, 0), np.float32))
    num_inputs = len(options.lags) + options.num_features + static_BS.shape[1]
    x_BSI = np.empty((batch, num_samples, num_inputs), np.float32)
    x_BSI[:, :, num_inputs - static_BS.shape[1] :] = static_BS[:, None]
    paths_PBS = np.empty((options.prediction_length, batch, num_samples), np.float32)
    parameters, hidden, cell = encoded["parameters"][:, None], encoded["hidden"], encoded["cell"]
    for step in range(options.prediction_length):
        if step:
            if step == 1:
                hidden, cell = (np.repeat(state, num_samples, axis=0) for state in (hidden, cell))
            window.write_step(x_BSI, paths_PBS, step)
            rows = x_BSI.reshape(batch * num_samples, num_inputs)
            output = functions["step"]({"inputs": rows, "hidden": hidden, "cell": cell})
            hidden, cell = output["next_hidden"], output["next_cell"]
            parameters = output["parameters"].reshape(batch, num_samples, -1)
        paths_PBS[step] = draw(parameters, tables[table_B, step], window.scale_B1)
    return paths_PBS
