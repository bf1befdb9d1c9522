"""An endpoint's samples and decisions in the words that MLflow shows: derived metrics, tags, a description."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from lab.artifacts.endpoint_log import Point, VariantRecord

VERDICTS = {"promote": "promoted", "rollback": "rolled back", "invalid": "invalid"}
MAX_EVIDENCE_LENGTH = 4000
_NUM_DECISIONS = 20
_SUM, _COUNT = "_sum_total", "_count_total"


def iso(time_s: float) -> str:
    """UTC, to the second."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def derived(metrics: Mapping[str, float]) -> dict[str, float]:
    """A sample's metrics with what its totals say: the share of errors and the mean outcome since the beginning."""
    found = {name: value for name, value in metrics.items() if not name.endswith(_SUM)}
    num = metrics.get("traffic/requests_total", 0.0)
    if num:
        found["errors/model_share_of_all"] = metrics.get("errors/model_total", 0.0) / num
    for name in [name for name in metrics if name.endswith(_SUM)]:
        base = name.removesuffix(_SUM)
        if metrics.get(base + _COUNT):
            found[f"{base}_mean"] = metrics[name] / metrics[base + _COUNT]
    return found


def registered_version(record: VariantRecord) -> tuple[str, str] | None:
    """(model, version) of one that came from the registry."""
    model, _, version = record.facts.get("registered", "").removeprefix("models:/").rpartition("/")
    return (model, version) if model else None


def concerned(decision: Mapping[str, Any], records: Sequence[VariantRecord], role: str) -> VariantRecord | None:
    """The model that stood behind a decision's "variant" or "control" when it was made."""
    name = decision["evidence"].get(role)
    named = [record for record in records if record.name == name]
    before = [record for record in named if record.first_s <= decision["time_s"]]
    return before[-1] if before else named[0] if named else None


def verdict(decision: Mapping[str, Any]) -> str:
    """In a word; empty for steps on the way. A control that was taken out has no kind of its own."""
    kind = str(decision["kind"])
    return VERDICTS.get(kind, "stopped" if kind == "set_weights" and "variant" in decision["evidence"] else "")


def outcome_of(decision: Mapping[str, Any]) -> dict[str, str]:
    """Tags of the variant, and of the registered model, that a decision was about."""
    return {
        "outcome": verdict(decision), "outcome_reason": f"{iso(decision['time_s'])} {decision['reason']}",
        "outcome_evidence": brief(decision["evidence"]),
    }  # fmt: skip


def decision_tags(decision: Mapping[str, Any]) -> dict[str, str]:
    """Tags of the endpoint's run; none for steps on the way, which the weights' history shows."""
    word = verdict(decision)
    if not word:
        return {}
    key = f"decision.{decision['id']:04d}"
    return {
        key: f"{iso(decision['time_s'])} {word}: {decision['reason']}",
        f"{key}.evidence": brief(decision["evidence"]),
        "lab.last_decision": f"{word}: {decision['reason']}",
    }


def brief(evidence: Mapping[str, Any]) -> str:
    """The numbers that a decision rests on, as JSON that fits a tag; `decisions.json` has them all."""
    kept = {name: evidence[name] for name in ("variant", "control", "breaker", "broken_guardrails") if name in evidence}
    kept["e_values"] = {name: one.get("e_value") for name, one in evidence.get("guardrails", {}).items()}
    kept["fires_at"] = 1.0 / evidence["alpha_per_guardrail"] if evidence.get("alpha_per_guardrail") else None
    metrics = evidence.get("metrics", {})
    kept["improvement"] = {name: one.get("improvement") for name, one in metrics.items()}
    kept["totals"] = evidence.get("totals", {})
    kept["sample_ratio_p_value"] = evidence.get("sample_ratio", {}).get("p_value")
    for dropped in ("", "totals", "improvement", "e_values", "broken_guardrails"):
        kept.pop(dropped, None)
        text = json.dumps({name: value for name, value in kept.items() if value not in (None, {})})
        if len(text) <= MAX_EVIDENCE_LENGTH:
            return text
    return json.dumps({"left out": "too long; see decisions.json"})


def summary_tags(point: Point) -> dict[str, str]:
    """What the table of runs shows of a variant beside its metrics."""
    return {"lab.share": f"{point.metrics.get('traffic/share', 0.0):.1%}", "lab.last_sample": iso(point.time_s)}


def note(
    endpoint: str, served: bool, records: Sequence[VariantRecord], latest: Mapping[int, Point],
    decisions: Sequence[Mapping[str, Any]],
) -> str:  # fmt: skip
    """The description of the endpoint's run, in Markdown."""
    head = f"**{endpoint}**: {'in service' if served else 'not in service'}"
    rows = [_row(record, latest[record.id].metrics) for record in records if record.id in latest]
    table = ["| variant | model | share | requests | model errors | p50 ms | p99 ms | outcomes |",
             "|---|---|---|---|---|---|---|---|", *rows]  # fmt: skip
    shown = [f"| {iso(d['time_s'])} | {d['kind']} | {_cell(d['reason'])} |" for d in decisions[-_NUM_DECISIONS:]]
    log = ["| time | decision | why |", "|---|---|---|", *shown] if shown else ["No decision was made."]
    return "\n".join([head, "", *table, "", *log])


def _row(record: VariantRecord, metrics: Mapping[str, float]) -> str:
    told = derived(metrics)
    outcomes = [f"{n.removeprefix('outcome/').removesuffix('_mean')} {v:.4f}" for n, v in told.items()
                if n.startswith("outcome/") and n.endswith("_mean")]  # fmt: skip
    cells = [
        record.name, record.facts.get("registered") or record.facts.get("model", ""),
        f"{told.get('traffic/share', 0.0):.1%}", f"{told.get('traffic/requests_total', 0.0):.0f}",
        f"{told.get('errors/model_total', 0.0):.0f}", _ms(told.get("latency/request_p50_ms")),
        _ms(told.get("latency/request_p99_ms")), ", ".join(outcomes),
    ]  # fmt: skip
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
