"""Latency as events: a request is slow when it exceeds a quantile of the control, frozen before the comparison.

Exceedances of a frozen threshold are Bernoulli events like errors, so the same e-process judges them
(`lab.serve.statistics.risk_ratio`). If both variants answer alike, both exceed the threshold alike at every moment,
also when the machine's load, and with it everyone's latency, changes. Testing several quantiles of a canary in this way
is Netflix's idea: Lindon, Sanden and Shirikian, "Rapid Regression Detection in Software Deployments through Sequential
Testing" (KDD 2022, arXiv 2205.14762).

Requests of one batch are answered together, so their latencies are one piece of evidence and not eight: with all of
them counted, equal variants raise a false alarm in most runs (benchmarks/guardrail_simulation.py).
`SpacedSamples` therefore takes the first request of each stretch of time, whichever variant it went to. The choice
depends neither on variant nor on latency, so the probability that a slow sample is the candidate's stays its share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np

T = TypeVar("T")


class SpacedSamples(Generic[T]):
    """The earliest assigned request of every stretch of `spacing_s`.

    Answers come in the order of their completion, in which fast ones lead, so a stretch is only judged `wait_s` after
    its end; what is answered later still does not take part.
    """

    def __init__(self, spacing_s: float, wait_s: float) -> None:
        self.spacing_s, self.wait_s = spacing_s, wait_s
        self._earliest: dict[int, tuple[float, T]] = {}
        self._last_closed = -1

    def offer(self, time_s: float, item: T) -> None:
        """Take a request assigned at `time_s`."""
        stretch = int(time_s // self.spacing_s)
        held = self._earliest.get(stretch)
        if stretch > self._last_closed and (held is None or time_s < held[0]):
            self._earliest[stretch] = (time_s, item)

    def take(self, now_s: float) -> list[T]:
        """The samples of the stretches that are over, in their order."""
        self._last_closed = max(self._last_closed, int((now_s - self.wait_s) // self.spacing_s) - 1)
        over = sorted(stretch for stretch in self._earliest if stretch <= self._last_closed)
        return [self._earliest.pop(stretch)[1] for stretch in over]


class FrozenQuantiles:
    """Collects the control's first latencies, then keeps their quantiles for good.

    Args:
        quantiles: between 0 and 1, e.g. (0.5, 0.95, 0.99).
        num_calibration: latencies to collect.
    """

    def __init__(self, quantiles: Sequence[float], num_calibration: int) -> None:
        self.quantiles = tuple(quantiles)
        self.num_calibration = num_calibration
        self._latencies_ms: list[float] = []
        self.thresholds_ms: tuple[float, ...] | None = None

    @property
    def ready(self) -> bool:
        return self.thresholds_ms is not None

    def calibrate(self, latency_ms: float) -> None:
        """Take one latency of the control; without effect once frozen."""
        if self.thresholds_ms is not None:
            return
        self._latencies_ms.append(latency_ms)
        if len(self._latencies_ms) >= self.num_calibration:
            values = np.quantile(np.asarray(self._latencies_ms), self.quantiles, method="inverted_cdf")
            self.thresholds_ms = tuple(float(value) for value in values)
            self._latencies_ms = []

    def exceeded(self, latency_ms: float) -> tuple[int, ...]:
        """Indices of the thresholds that `latency_ms` lies above; none before they are frozen."""
        return tuple(i for i, threshold in enumerate(self.thresholds_ms or ()) if latency_ms > threshold)

    def summary(self) -> dict[str, Any]:
        named = zip(self.quantiles, self.thresholds_ms or (None,) * len(self.quantiles), strict=True)
        return {f"p{100 * quantile:g}_ms": threshold for quantile, threshold in named}

    def state_dict(self) -> dict[str, Any]:
        return {"latencies_ms": self._latencies_ms, "thresholds_ms": self.thresholds_ms}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._latencies_ms = list(state["latencies_ms"])
        thresholds = state["thresholds_ms"]
        self.thresholds_ms = None if thresholds is None else tuple(thresholds)
