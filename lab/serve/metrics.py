"""Prometheus text (format 0.0.4) out of the slab: `inference_*`, and on request the names of Triton or CloudWatch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lab.serve.slab import (
    ASSIGNMENTS,
    CODES,
    COLUMNS,
    PROTOCOLS,
    REASONS,
    STAGES,
    UNROUTED,
    Histogram,
    Slab,
    batch_histogram,
    stage_histogram,
)
from lab.serve.topology import Deployed, DeployedEndpoint, Topology

Labels = Mapping[str, object]
_HELP = {
    "inference_requests_total": "Answered requests by status code and protocol.",
    "inference_rejected_total": "Requests refused before they ran, by reason.",
    "inference_assignments_total": "How requests came to their variant.",
    "inference_batch_size": "Inputs per execution.",
    "inference_queue_depth": "Requests that wait.",
    "inference_in_flight": "Requests in executors' hands.",
    "inference_variant_weight": "Weight in force; share = weight / sum.",
    "inference_variant_ready": "Workers in which the variant is ready.",
    "inference_model_info": "What is served.",
    "inference_model_load_seconds": "Time to load, warm up and check.",
    "inference_shadow_dropped_total": "Copies of requests that were not run.",
    "inference_shadow_mismatch_total": "Copies whose answer differed.",
    "inference_shadow_compared_total": "Copies that were compared.",
    "inference_worker_restarts_total": "Workers that ended by themselves and were started again.",
    "inference_lost_requests_total": "Requests in the hands of workers that ended.",
    "inference_workers": "Workers that serve.",
    "inference_capture_dropped_total": "Events of data capture that were not written.",
    "inference_feedback_total": "Outcomes received.",
    "inference_guardrail_state": "1 where a guardrail has fired.",
    "inference_experiment_evalue": "E-value of a test; it fires at 1 / alpha.",
    "inference_experiment_srm_pvalue": "Always-valid p-value of the sample ratio.",
}


class Text:
    """Samples grouped by family, each with its HELP and TYPE once."""

    def __init__(self) -> None:
        self._families: dict[str, tuple[str, list[str]]] = {}

    def add(self, kind: str, name: str, labels: Labels, value: float, *, suffix: str = "") -> None:
        _, lines = self._families.setdefault(name, (kind, []))
        inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        lines.append(f"{name}{suffix}{{{inside}}} {_number(value)}" if inside else f"{name}{suffix} {_number(value)}")

    def histogram(self, name: str, labels: Labels, found: Histogram) -> None:
        """Cumulative buckets, sum and count."""
        running = np.cumsum(found.counts)
        bounds = [*(f"{bound:.6g}" for bound in found.bounds), "+Inf"]
        for bound, count in zip(bounds, running, strict=True):
            self.add("histogram", name, {**labels, "le": bound}, float(count), suffix="_bucket")
        self.add("histogram", name, labels, found.total, suffix="_sum")
        self.add("histogram", name, labels, float(running[-1]), suffix="_count")

    def render(self) -> str:
        lines: list[str] = []
        for name, (kind, samples) in self._families.items():
            lines += [
                f"# HELP {name} {_HELP.get(name, name.replace('_', ' ') + '.')}",
                f"# TYPE {name} {kind}",
                *samples,
            ]
        return "\n".join(lines) + "\n"


def _escaped(value: object) -> str:
    return str(value).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 2**53 else repr(float(value))


@dataclass(frozen=True)
class Fleetwide:
    """What the supervisor knows beside the slab."""

    num_workers: int
    num_restarts: int
    num_lost: int
    guards: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    feedback: Mapping[tuple[str, str], int] = field(default_factory=dict)


def render(slab: Slab, topology: Topology, fleet: Fleetwide, compat: str = "none") -> str:
    """The whole of /metrics."""
    text = Text()
    rows: np.ndarray = slab.counters.sum(axis=0)
    _requests(text, {"endpoint": "", "variant": ""}, rows[UNROUTED])
    _named(text, {"endpoint": "", "variant": ""}, rows[UNROUTED], "rejected", REASONS, "inference_rejected_total")
    for endpoint in topology.endpoints.values():
        weights = topology.weights_of(endpoint)
        for variant in endpoint.all():
            labels = {"endpoint": endpoint.name, "variant": variant.config.name}
            _variant(text, labels, rows[variant.slot], weights[variant.config.name], variant)
            if compat == "triton":
                _triton(text, endpoint, variant, rows[variant.slot])
            elif compat == "sagemaker":
                _cloudwatch(text, endpoint, variant, rows[variant.slot], fleet.num_workers)
    text.add("gauge", "inference_workers", {}, fleet.num_workers)
    text.add("counter", "inference_worker_restarts_total", {}, fleet.num_restarts)
    text.add("counter", "inference_lost_requests_total", {}, fleet.num_lost)
    for (name, metric), count in fleet.feedback.items():
        text.add("counter", "inference_feedback_total", {"endpoint": name, "metric": metric}, count)
    for name, state in fleet.guards.items():
        _guard(text, name, state)
    return text.render()


def _variant(text: Text, labels: Labels, row: np.ndarray, weight: float, variant: Deployed) -> None:
    _requests(text, labels, row)
    _named(text, labels, row, "rejected", REASONS, "inference_rejected_total")
    _named(text, labels, row, "assigned", ASSIGNMENTS, "inference_assignments_total")
    for stage in STAGES:
        text.histogram(f"inference_{stage}_duration_seconds", labels, stage_histogram(row, stage))
    text.histogram("inference_batch_size", labels, batch_histogram(row))
    for gauge in ("queue_depth", "in_flight"):
        text.add("gauge", f"inference_{gauge}", labels, float(row[COLUMNS[gauge]]))
    text.add("gauge", "inference_variant_weight", labels, weight)
    text.add("gauge", "inference_variant_ready", labels, float(row[COLUMNS["ready"]]))
    text.add("gauge", "inference_model_info", {**labels, **variant.identity}, 1)
    text.add("gauge", "inference_model_load_seconds", labels, variant.load_s)
    for count in ("shadow_dropped", "shadow_mismatch", "shadow_compared", "capture_dropped"):
        text.add("counter", f"inference_{count}_total", labels, float(row[COLUMNS[count]]))


def requests_by_code(row: np.ndarray) -> Iterator[tuple[str, int, int]]:
    """(protocol, code, count) of all that are not zero."""
    for protocol in PROTOCOLS:
        for code in CODES:
            count = int(row[COLUMNS[f"requests.{protocol}.{code}"]])
            if count:
                yield protocol, code, count


def _requests(text: Text, labels: Labels, row: np.ndarray) -> None:
    for protocol, code, count in requests_by_code(row):
        text.add("counter", "inference_requests_total", {**labels, "code": code, "protocol": protocol}, count)


def _named(text: Text, labels: Labels, row: np.ndarray, prefix: str, names: Iterable[str], family: str) -> None:
    for name in names:
        count = int(row[COLUMNS[f"{prefix}.{name}"]])
        if count:
            text.add("counter", family, {**labels, "reason": name}, count)


def _guard(text: Text, endpoint: str, state: Mapping[str, Any]) -> None:
    """E-values and states of one endpoint's guard."""
    for variant, summary in state.get("variants", {}).items():
        for test, found in summary.get("guardrails", {}).items():
            if found.get("e_value") is not None:
                labels = {"endpoint": endpoint, "variant": variant, "test": test}
                text.add("gauge", "inference_experiment_evalue", labels, float(found["e_value"]))
        p_value = summary.get("sample_ratio", {}).get("p_value")
        if p_value is not None:
            labels = {"endpoint": endpoint, "variant": variant}
            text.add("gauge", "inference_experiment_srm_pvalue", labels, float(p_value))
    for variant in state.get("weights", {}):
        fired = variant in state.get("stopped", {}) or bool(state.get("breakers", {}).get(variant))
        labels = {"endpoint": endpoint, "variant": variant, "metric": "any"}
        text.add("gauge", "inference_guardrail_state", labels, float(fired))


def _split(row: np.ndarray) -> tuple[int, int, int, int]:
    """(all, 4xx but 424, 5xx and 424, 424)."""
    found = list(requests_by_code(row))
    client = sum(n for _, code, n in found if 400 <= code < 500 and code != 424)
    model = sum(n for _, code, n in found if code == 424)
    server = sum(n for _, code, n in found if code >= 500) + model
    return sum(n for _, _, n in found), client, server, model


def _triton(text: Text, endpoint: DeployedEndpoint, variant: Deployed, row: np.ndarray) -> None:
    labels = {"model": endpoint.name, "version": variant.config.name}
    total, client, server, _ = _split(row)
    text.add("counter", "nv_inference_request_success", labels, total - client - server)
    text.add("counter", "nv_inference_request_failure", labels, client + server)
    text.add("counter", "nv_inference_count", labels, float(row[COLUMNS["inputs"]]))
    text.add("counter", "nv_inference_exec_count", labels, float(row[COLUMNS["executions"]]))
    text.add("gauge", "nv_inference_pending_request_count", labels, float(row[COLUMNS["queue_depth"]]))
    names = {"request": "request", "queue": "queue", "preprocess": "compute_input", "execute": "compute_infer",
             "postprocess": "compute_output"}  # fmt: skip
    for stage, name in names.items():
        text.add("counter", f"nv_inference_{name}_duration_us", labels, round(stage_histogram(row, stage).total * 1e6))


def _cloudwatch(text: Text, endpoint: DeployedEndpoint, variant: Deployed, row: np.ndarray, num_workers: int) -> None:
    labels = {"EndpointName": endpoint.name, "VariantName": variant.config.name}
    total, client, server, model = _split(row)
    counts = {"Invocations": total, "InvocationsPerInstance": total / max(1, num_workers),
              "Invocation4XXErrors": client + model, "Invocation5XXErrors": server - model,
              "InvocationModelErrors": model}  # fmt: skip
    for name, value in counts.items():
        text.add("counter", name, labels, value)
    for name, stage in (("ModelLatency", "execute"), ("OverheadLatency", "overhead")):
        found = stage_histogram(row, stage)
        text.add("summary", name, labels, round(found.total * 1e6), suffix="_sum")
        text.add("summary", name, labels, found.count, suffix="_count")
