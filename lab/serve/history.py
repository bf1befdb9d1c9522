"""The supervisor's recorder: per variant and interval what was served, kept for whoever compares it later.

The event loop only subtracts counters. A thread of its own writes them, so that a slow disk holds up nothing; while it
is still busy no sample is taken and the next one covers the longer interval.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lab.artifacts.endpoint_log import HistoryWriter, Sample, hold_serving_lock
from lab.core.errors import LabError
from lab.core.progress import warn
from lab.serve.config import EndpointTrackingConfig
from lab.serve.guarding import Guarding
from lab.serve.metrics import requests_by_code
from lab.serve.slab import COLUMNS, REASONS, Slab, batch_histogram, stage_histogram
from lab.serve.topology import Deployed, DeployedEndpoint, Topology

_MIN_INTERVAL_S = 1.0
"""Between samples that a change of weights asks for."""
_SHORTEST_S = 0.1
"""An interval that a rate can be told of; a variant's first one has no length."""
_CLOSE_S = 10.0
Outcomes = Mapping[tuple[str, str, str], tuple[int, float]]


@dataclass
class _Watched:
    """A variant in service, and what had been counted when its last sample was taken."""

    endpoint: str
    variant: Deployed
    row: np.ndarray
    outcomes: dict[str, tuple[int, float]]
    time_s: float


class Recorder:
    """Takes samples every `config.every_s` seconds, and as soon as weights have changed.

    Args:
        state_dir: each endpoint has its folder below.
    """

    def __init__(
        self, slab: Slab, topology: Topology, guarding: Guarding, state_dir: Path, config: EndpointTrackingConfig
    ) -> None:
        self._slab, self._topology, self._guarding = slab, topology, guarding
        self._state_dir, self._every_s = state_dir, config.every_s
        self._facts = {"experiment": config.experiment, "uri": config.uri or ""}
        self._watched: dict[int, _Watched] = {}
        self._names: set[tuple[str, str]] = set()
        self._version, self._last_s = -1, float("-inf")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="history")
        self._writing: Future[None] | None = None
        self._writers: dict[str, HistoryWriter] = {}
        self._locks: dict[str, Any] = {}
        self._failed: set[str] = set()

    def tick(self) -> None:
        """To be called often."""
        now = time.monotonic()
        changed = self._slab.version != self._version and now - self._last_s >= _MIN_INTERVAL_S
        if not changed and now - self._last_s < self._every_s:
            return
        if self._writing is not None and not self._writing.done():
            return
        self._version, self._last_s = self._slab.version, now
        self._writing = self._thread.submit(self._write, self._samples())

    def close(self) -> None:
        """Write what is left; waits for the disk, but not for ever."""
        last = self._thread.submit(self._write, self._samples())
        self._thread.shutdown(wait=False)
        try:
            last.result(_CLOSE_S)
        except TimeoutError:
            warn("the end of the endpoint's history is not written: the disk does not answer")
            return
        for held in (*self._writers.values(), *self._locks.values()):
            held.close()

    def _samples(self) -> dict[str, list[Sample]]:
        """Of every endpoint's variants; those that have gone have their last one."""
        now, rows = time.time(), self._slab.counters.sum(axis=0)
        found: dict[str, list[Sample]] = {}
        in_service: set[int] = set()
        for endpoint in self._topology.endpoints.values():
            weights, shares = self._topology.weights_of(endpoint), self._topology.shares_of(endpoint)
            guard = self._guarding.guards.get(endpoint.name)
            evidence = guard.state()["variants"] if guard is not None else {}
            for variant in endpoint.all():
                name = variant.config.name
                in_service.add(variant.slot)
                placed = {"traffic/weight": weights[name], "traffic/share": shares.get(name, 0.0)}
                told = placed | evidence_metrics(evidence.get(name, {}))
                found.setdefault(endpoint.name, []).append(self._sample(endpoint, variant, rows, now, told))
        for slot in [slot for slot in self._watched if slot not in in_service]:
            gone = self._watched.pop(slot)
            none = {"traffic/weight": 0.0, "traffic/share": 0.0}
            last = _counted(gone, rows[slot], self._guarding.outcomes, now, none)
            found.setdefault(gone.endpoint, []).append(last)
        return found

    def _sample(
        self, endpoint: DeployedEndpoint, variant: Deployed, rows: np.ndarray, now: float, told: dict[str, float]
    ) -> Sample:
        watched = self._watched.get(variant.slot)
        if watched is None or watched.variant is not variant:
            key = (endpoint.name, variant.config.name)
            # Outcomes are kept by name: earlier ones belong to the model that had the name before, if there was one.
            outcomes = _outcomes_of(self._guarding.outcomes, *key) if key in self._names else {}
            self._names.add(key)
            watched = _Watched(endpoint.name, variant, np.zeros_like(rows[0]), outcomes, now)
            self._watched[variant.slot] = watched
        return _counted(watched, rows[variant.slot], self._guarding.outcomes, now, told)

    def _write(self, samples: dict[str, list[Sample]]) -> None:
        for name, of_endpoint in samples.items():
            try:
                folder = self._state_dir / name
                if name not in self._writers:
                    self._locks[name] = hold_serving_lock(folder)
                    self._writers[name] = HistoryWriter(folder, self._facts)
                self._writers[name].add(of_endpoint)
                self._failed.discard(name)
            except (LabError, OSError) as error:
                if name not in self._failed:
                    self._failed.add(name)
                    warn(f"the history of endpoint {name} has a gap: {error}")


def _outcomes_of(outcomes: Outcomes, endpoint: str, variant: str) -> dict[str, tuple[int, float]]:
    return {metric: found for (e, v, metric), found in outcomes.items() if (e, v) == (endpoint, variant)}


def _counted(
    watched: _Watched, row: np.ndarray, outcomes: Outcomes, now: float, told: dict[str, float]
) -> Sample:  # fmt: skip
    """The sample of the time since the last one, which this replaces."""
    name, before = watched.variant.config.name, watched.row
    current = _outcomes_of(outcomes, watched.endpoint, name)
    metrics, counts = traffic_metrics(row - before, now - watched.time_s)
    for stage in ("request", "execute"):
        taken = stage_histogram(row, stage) - stage_histogram(before, stage)
        if taken.count:
            metrics |= {f"latency/{stage}_p{q}_ms": taken.quantile(q / 100) * 1e3 for q in (50, 95, 99)}
    for metric, (num, total) in current.items():
        num_before, total_before = watched.outcomes.get(metric, (0, 0.0))
        if num > num_before:
            metrics[f"outcome/{metric}"] = (total - total_before) / (num - num_before)
        counts |= {f"outcome/{metric}_count": num - num_before, f"outcome/{metric}_sum": total - total_before}
    watched.row, watched.outcomes, watched.time_s = row.copy(), current, now
    return Sample(name, facts_of(watched.variant), now, told | metrics, counts)


def traffic_metrics(row: np.ndarray, seconds: float) -> tuple[dict[str, float], dict[str, float]]:
    """Rates of an interval, and its counts, from the difference of two counter rows."""
    codes = [(code, count) for _, code, count in requests_by_code(row)]
    num = float(sum(count for _, count in codes))
    errors = float(sum(count for code, count in codes if code >= 500 or code == 424))
    client = float(sum(count for code, count in codes if 400 <= code < 500 and code != 424))
    rejected = float(sum(row[COLUMNS[f"rejected.{reason}"]] for reason in REASONS))
    rates = {"traffic/requests_per_s": num / seconds} if seconds >= _SHORTEST_S else {}
    if num:
        rates["errors/model_rate"] = errors / num
        rates["errors/client_rate"] = client / num
    batch = batch_histogram(row)
    if batch.count:
        rates["traffic/mean_batch"] = batch.total / batch.count
    counts = {"traffic/requests": num, "errors/model": errors, "errors/client": client, "errors/rejected": rejected}
    return rates, counts


def evidence_metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    """E-values of the guardrails, and the interval of each outcome metric's improvement over the control."""
    found: dict[str, float | None] = {
        f"evidence/{test}_e_value": one["e_value"] for test, one in summary.get("guardrails", {}).items()
    }
    for metric, one in summary.get("metrics", {}).items():
        improvement = one.get("improvement") or {}
        for key, name in (("estimate", "improvement"), ("low", "improvement_low"), ("high", "improvement_high")):
            found[f"evidence/{metric}_{name}"] = improvement.get(key)
    if "sample_ratio" in summary:
        found["evidence/sample_ratio_p_value"] = summary["sample_ratio"]["p_value"]
    return {name: float(value) for name, value in found.items() if value is not None}


def facts_of(variant: Deployed) -> dict[str, str]:
    """What stands behind a variant's name."""
    config, report = variant.config, variant.report
    facts = variant.identity | {"model": " > ".join(config.models), "folder": variant.where, "role": "production"}
    facts |= {"engine": str(report.get("engine", ""))} | ({"role": "shadow"} if config.shadow else {})
    return facts | ({"registered": variant.registered} if variant.registered else {})
