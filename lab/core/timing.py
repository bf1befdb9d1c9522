"""Wall-clock measurement: stage durations, and interleaved repeats that stay fair on a noisy machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

SETTLE_S = 0.05
"""Pause before each engine's turn: thread pools of the one before keep spinning on their cores for a while."""


class Stages:
    """Durations of named stages in seconds, for the manifest."""

    def __init__(self) -> None:
        self.durations_s: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.durations_s[name] = round(time.perf_counter() - start, 4)


@dataclass(frozen=True)
class Latency:
    """Percentiles over repeated calls, in milliseconds."""

    p50_ms: float
    p95_ms: float
    num_calls: int

    @classmethod
    def of(cls, seconds: list[float]) -> Latency:
        p50, p95 = np.percentile(np.asarray(seconds) * 1e3, [50, 95])
        return cls(float(p50), float(p95), len(seconds))


def interleaved(
    calls: Mapping[str, Callable[[], object]], *, rounds: int, calls_per_round: int = 5, warmup: int = 3
) -> dict[str, Latency]:
    """Time several callables in turn (A B C, A B C, ...), so that drift of the machine hits all of them alike."""
    for call in calls.values():
        for _ in range(warmup):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(SETTLE_S)
            call()  # caches and clocks belong to the engine measured before
            for _ in range(calls_per_round):
                start = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - start)
    return {name: Latency.of(values) for name, values in seconds.items()}
