"""The state that the live page and `GET /state` show: per variant traffic, latency, errors and evidence."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lab.serve.metrics import requests_by_code
from lab.serve.slab import COLUMNS, Slab, batch_histogram, stage_histogram
from lab.serve.topology import Deployed, DeployedEndpoint, Topology

_WINDOW_S = 30.0
_EVERY_S = 1.0


@dataclass(frozen=True)
class _Snapshot:
    time_s: float
    rows: np.ndarray


class View:
    """Keeps snapshots of the counters, so that the last half minute can be told from the whole."""

    def __init__(self, slab: Slab, topology: Topology) -> None:
        self._slab, self._topology = slab, topology
        self._past: deque[_Snapshot] = deque()
        self.started_s = time.time()

    def tick(self) -> None:
        """To be called often; takes a snapshot each second."""
        now = time.monotonic()
        if self._past and now - self._past[-1].time_s < _EVERY_S:
            return
        self._past.append(_Snapshot(now, self._slab.counters.sum(axis=0)))
        while now - self._past[0].time_s > _WINDOW_S:
            self._past.popleft()

    def state(self, workers: Mapping[str, Any], guards: Mapping[str, Any], decisions: Sequence[Any]) -> dict[str, Any]:
        """JSON; times in ms, rates per second."""
        rows = self._slab.counters.sum(axis=0)
        return {
            "time": time.time(), "uptime_s": time.time() - self.started_s, "window_s": _WINDOW_S, "workers": workers,
            "endpoints": [self._endpoint(one, rows, guards.get(one.name)) for one in self._topology.endpoints.values()],
            "decisions": list(decisions)[-20:],
        }  # fmt: skip

    def _endpoint(self, endpoint: DeployedEndpoint, rows: np.ndarray, guard: Any) -> dict[str, Any]:
        weights, shares = self._topology.weights_of(endpoint), self._topology.shares_of(endpoint)
        variants = [
            self._variant(one, rows[one.slot])
            | {"weight": weights[one.config.name], "share": shares.get(one.config.name), "is_shadow": one.config.shadow}
            for one in endpoint.all()
        ]
        return {"name": endpoint.name, "variants": variants, "guard": guard}

    def _variant(self, variant: Deployed, row: np.ndarray) -> dict[str, Any]:
        before = self._past[0] if self._past else None
        old = before.rows[variant.slot] if before is not None else np.zeros_like(row)
        seconds = max(1e-3, time.monotonic() - before.time_s) if before is not None else 1.0
        recent, total = _counts(row - old), _counts(row)
        latency = stage_histogram(row, "request") - stage_histogram(old, "request")
        execute = stage_histogram(row, "execute") - stage_histogram(old, "execute")
        batch = batch_histogram(row)
        return {
            "name": variant.config.name, "model": variant.where, "identity": variant.identity,
            "report": variant.report, "requests": total["all"], "errors": total["errors"], "codes": total["codes"],
            "requests_per_s": recent["all"] / seconds,
            "error_share": recent["errors"] / recent["all"] if recent["all"] else 0.0,
            "latency_ms": {f"p{q}": _ms(latency.quantile(q / 100)) for q in (50, 90, 99)},
            "execute_ms": {f"p{q}": _ms(execute.quantile(q / 100)) for q in (50, 90, 99)},
            "mean_batch": batch.total / batch.count if batch.count else None,
            "queue_depth": int(row[COLUMNS["queue_depth"]]), "in_flight": int(row[COLUMNS["in_flight"]]),
            "shadow": {name: int(row[COLUMNS[f"shadow_{name}"]]) for name in ("compared", "mismatch", "dropped")},
        }  # fmt: skip


def _counts(row: np.ndarray) -> dict[str, Any]:
    codes: dict[int, int] = {}
    for _, code, count in requests_by_code(row):
        codes[code] = codes.get(code, 0) + count
    errors = sum(count for code, count in codes.items() if code >= 500 or code == 424)
    return {"all": sum(codes.values()), "errors": errors, "codes": {str(code): n for code, n in codes.items()}}


def _ms(seconds: float) -> float | None:
    return None if np.isnan(seconds) else round(seconds * 1e3, 3)
