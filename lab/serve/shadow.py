"""Shadow variants: copies of requests, run last and dropped first, their answers compared and never sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lab.core.errors import LabError
from lab.serve.engine.variant import Variant
from lab.serve.engine.work import Answer, Work
from lab.serve.protocols.errors import to_serve_error

MISMATCH = 1e-3
"""Outputs that differ by more, as a share of their largest magnitude, count as a mismatch."""
Sink = Callable[[Mapping[str, Any]], None]


class Shadows:
    """Sends copies and compares; `sink` gets one record per comparison."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._tasks: set[asyncio.Task[None]] = set()

    def mirror(self, shadow: Variant, served: Variant, work: Work, primary: Answer, inference_id: str) -> None:
        """Queue a copy of an answered request; dropped at once where production still waits or the queue is full."""
        if served.num_pending > served.config.executor_threads:
            shadow.meter.add("shadow_dropped")
            return
        try:
            job = shadow.admit(work, time.perf_counter())
        except LabError:
            shadow.meter.add("shadow_dropped")
            return
        shadow.meter.add("assigned.shadow")
        names = {"shadow": shadow.config.name, "variant": served.config.name, "inference_id": inference_id}
        task = asyncio.get_running_loop().create_task(self._compare(shadow, job.future, primary, names))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _compare(
        self, shadow: Variant, future: asyncio.Future[Answer], primary: Answer, names: dict[str, Any]
    ) -> None:
        record = names | {"time": time.time()}
        try:
            answer = await future
        except Exception as error:  # noqa: BLE001  a failing shadow is a finding, not a failure
            shown, _ = to_serve_error(error)
            self._sink(record | {"error": shown.what})
            shadow.meter.add("shadow_mismatch")
            return
        found = compare(primary.outputs or {}, answer.outputs or {})
        same = found["max_rel"] is not None and found["max_rel"] <= MISMATCH
        same = same or (found["max_rel"] is None and primary.body == answer.body)
        shadow.meter.add("shadow_compared")
        if not same:
            shadow.meter.add("shadow_mismatch")
        self._sink(record | found | {"same": same})


def compare(expected: Mapping[str, np.ndarray], actual: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Largest differences over outputs of the same name and shape, and of the first that is [N, K]: the share of rows
    with the same largest class, and the mean Kullback-Leibler divergence of their softmax. None where there is none.
    """
    pairs = [(expected[n], actual[n]) for n in expected if n in actual and expected[n].shape == actual[n].shape]
    pairs = [(a.astype(np.float64), b.astype(np.float64)) for a, b in pairs if a.size and a.dtype.kind in "fiu"]
    result: dict[str, Any] = {"max_abs": None, "max_rel": None, "argmax_agreement": None, "kl": None}
    if len(pairs) == len(expected) and pairs:
        gaps = [(float(np.abs(a - b).max()), float(np.abs(a).max()) or 1.0) for a, b in pairs]
        result["max_abs"] = max(gap for gap, _ in gaps)
        result["max_rel"] = max(gap / scale for gap, scale in gaps)
    scores = next(((a, b) for a, b in pairs if a.ndim == 2 and a.shape[1] > 1), None)
    if scores is not None:
        result["argmax_agreement"] = float((scores[0].argmax(1) == scores[1].argmax(1)).mean())
        result["kl"] = float(_divergence(*scores))
    return result


def _divergence(a_NK: np.ndarray, b_NK: np.ndarray) -> float:
    log_p, log_q = _log_softmax(a_NK), _log_softmax(b_NK)
    return float((np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean())


def _log_softmax(x_NK: np.ndarray) -> np.ndarray:
    shifted = x_NK - x_NK.max(axis=1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
