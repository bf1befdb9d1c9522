"""Endpoints in MLflow: what an endpoint wrote about itself becomes a run with a child per served model.

A process of its own reads the endpoint's files, so that neither MLflow nor its server can touch what is served. The
server is told from where it was told last; one that was down misses nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lab.artifacts.endpoint_log import EndpointLog, Point, VariantRecord, list_endpoints
from lab.artifacts.files import storage_errors
from lab.core.errors import ArtifactError, LabError
from lab.core.progress import say, warn
from lab.pipelines.endpoint_story import (
    concerned,
    decision_tags,
    derived,
    iso,
    note,
    outcome_of,
    registered_version,
    summary_tags,
)

if TYPE_CHECKING:
    from lab.tracking.endpoint_runs import EndpointRuns

DEFAULT_EXPERIMENT = "lab-endpoints"
MAX_POINTS = 500
"""Samples that are told before the server is told how far that was."""
NICENESS = 10
_START_S = 30.0
_LOOK_EVERY_S = 0.5
_PARAMS = ("model", "model_id", "sha256", "target", "engine", "task", "tvm", "registered", "role")


@dataclass(frozen=True)
class SyncedEndpoint:
    """What became of one endpoint: "uploaded" now; "complete" before; "in use" by another synchronisation; "failed"."""

    endpoint: str
    outcome: Literal["uploaded", "complete", "in use", "failed"]
    run_id: str = ""
    num_samples: int = 0
    num_decisions: int = 0
    reason: str = ""


def overview(state_dir: Path) -> list[dict[str, Any]]:
    """One row per endpoint that has ever been served from this state folder."""
    rows = []
    for log in list_endpoints(state_dir):
        latest, decisions = log.latest(), log.decisions()
        served = [v for v in log.variants() if v.id in latest]
        last_s = max((point.time_s for point in latest.values()), default=None)
        rows.append({
            "name": log.name, "served": log.is_served(), "models": len(served),
            "requests": int(sum(point.metrics.get("traffic/requests_total", 0) for point in latest.values())),
            "decisions": len(decisions), "last_sample": None if last_s is None else iso(last_s),
            "last_decision": decisions[-1]["reason"] if decisions else "",
        })  # fmt: skip
    return rows


def find(state_dir: Path, names: Sequence[str] = ()) -> list[EndpointLog]:
    """The endpoints of these names; all without a name. Raises ArtifactError naming those that are there."""
    there = {log.name: log for log in list_endpoints(state_dir)}
    missing = [name for name in names if name not in there]
    if missing:
        raise ArtifactError(
            f"there is no history of endpoint '{missing[0]}' below {state_dir}", expected=", ".join(there) or "none",
            hint="lab serve CONFIG writes one; --state-dir names another folder (log.state_dir of the configuration)",
        )  # fmt: skip
    return [there[name] for name in names or there]


def sync(log: EndpointLog, uri: str | None = None, experiment: str | None = None) -> SyncedEndpoint:
    """Tell MLflow what it does not know yet of one endpoint; repeating it changes nothing.

    Args:
        uri, experiment: default: those of the endpoint's configuration.

    Raises:
        TrackingError: the server does not answer. MissingToolError: MLflow is not installed.
    """
    from lab.tracking.server import connect, describe, resolve_uri

    with _only_one(log) as alone:
        if not alone:
            return SyncedEndpoint(log.name, "in use")
        meta = log.meta()
        target = resolve_uri(uri or meta.get("uri") or None)
        client = connect(target)
        try:
            return _sync(log, client, target, experiment or meta.get("experiment") or DEFAULT_EXPERIMENT)
        except LabError:
            raise
        except Exception as error:  # noqa: BLE001  MLflow raises whatever its store does
            return SyncedEndpoint(log.name, "failed", reason=describe(error))


def _sync(log: EndpointLog, client: Any, uri: str, experiment: str) -> SyncedEndpoint:
    from lab.tracking.endpoint_runs import DECISION_TAG, EndpointRuns

    records = {record.id: record for record in log.variants()}
    if not records:
        return SyncedEndpoint(log.name, "complete")
    served, meta = log.is_served(), log.meta()
    started_s = min(record.first_s for record in records.values())
    runs = EndpointRuns(client, uri, experiment, meta["endpoint_id"], log.name, started_s)
    children = {record.id: _child(runs, record) for record in records.values()}
    num_samples = _tell_samples(log, runs, records, children)
    decisions = log.decisions(runs.synced(DECISION_TAG))
    for decision in decisions:
        _tell_decision(runs, decision, list(records.values()), children)
        runs.set_synced(DECISION_TAG, decision["id"])
    latest = log.latest()
    if num_samples or decisions:
        every = log.decisions()
        runs.set_note(runs.run_id, note(log.name, served, list(records.values()), latest, every))
        for record in records.values():
            if record.id in latest:
                runs.set_tags(children[record.id], summary_tags(latest[record.id]))
        if decisions:
            runs.log_json(runs.run_id, "decisions.json", every)
    _tell_ends(runs, children, latest, served)
    outcome: Literal["uploaded", "complete"] = "uploaded" if num_samples or decisions else "complete"
    return SyncedEndpoint(log.name, outcome, runs.run_id, num_samples, len(decisions))


def _child(runs: EndpointRuns, record: VariantRecord) -> str:
    params = {"variant": record.name} | {name: record.facts.get(name, "") for name in _PARAMS}
    key = f"{record.name}@{record.facts.get('sha256', '')}"
    tags = {"lab.endpoint": runs.name, "lab.variant": record.name, "lab.folder": record.facts.get("folder", "")}
    return runs.variant(key, f"{record.name} of {runs.name}", record.first_s, params, tags)


def _tell_samples(
    log: EndpointLog, runs: EndpointRuns, records: dict[int, VariantRecord], children: dict[int, str]
) -> int:  # fmt: skip
    from lab.tracking.endpoint_runs import SAMPLE_TAG

    after, num = runs.synced(SAMPLE_TAG), 0
    while points := log.points(after, MAX_POINTS):
        of_variant: dict[int, list[tuple[float, dict[str, float]]]] = defaultdict(list)
        for point in points:
            if point.variant in records:  # one that came after the list was read waits for the next time
                of_variant[point.variant].append((point.time_s, derived(point.metrics)))
        unknown = [point.id for point in points if point.variant not in records]
        points = points if not unknown else [point for point in points if point.id < unknown[0]]
        if not points:
            break
        for variant, told in of_variant.items():
            runs.log(children[variant], told)
        runs.log(runs.run_id, _of_endpoint(points, records))
        after, num = points[-1].id, num + len(points)
        runs.set_synced(SAMPLE_TAG, after)
    return num


def _of_endpoint(points: Sequence[Point], records: dict[int, VariantRecord]) -> list[tuple[float, dict[str, float]]]:
    """What the endpoint's own run shows: every variant's share in one chart, and the traffic of all."""
    by_time: dict[float, dict[str, float]] = defaultdict(dict)
    for point in points:
        told, name = by_time[point.time_s], records[point.variant].name
        told[f"share/{name}"] = point.metrics.get("traffic/share", 0.0)
        rate = point.metrics.get("traffic/requests_per_s", 0.0)
        told["traffic/requests_per_s"] = told.get("traffic/requests_per_s", 0.0) + rate
    return sorted(by_time.items())


def _tell_decision(
    runs: EndpointRuns, decision: dict[str, Any], records: Sequence[VariantRecord], children: dict[int, str]
) -> None:  # fmt: skip
    """A verdict goes to the endpoint's run, to the variant's, to the registered model, and moves its aliases."""
    tags = decision_tags(decision)
    if not tags:
        return
    runs.set_tags(runs.run_id, tags)
    record = concerned(decision, records, "variant")
    if record is None:
        return
    outcome = outcome_of(decision)
    runs.set_tags(children[record.id], {f"lab.{name}": value for name, value in outcome.items()})
    version = registered_version(record)
    if version is None:
        return
    prefix = f"lab.endpoint.{runs.name}"
    told = {f"{prefix}.{name}": value for name, value in outcome.items()} | {f"{prefix}.run": children[record.id]}
    if runs.tag_version(version, told) and decision["kind"] == "promote":
        control = concerned(decision, records, "control")
        loser = registered_version(control) if control is not None else None
        if runs.promote(version, loser):
            say(f"models:/{version[0]}@champion is version {version[1]} now: {decision['reason']}")


def _tell_ends(runs: EndpointRuns, children: dict[int, str], latest: dict[int, Point], served: bool) -> None:
    last_s = max((point.time_s for point in latest.values()), default=runs.started_s)
    for variant, point in latest.items():
        runs.set_ended(children[variant], None if served and point.time_s == last_s else point.time_s)
    runs.set_ended(runs.run_id, None if served else last_s)


@contextlib.contextmanager
def _only_one(log: EndpointLog) -> Iterator[bool]:
    """Two at a time would both make the runs that are missing."""
    path = log.folder / "sync.lock"
    with storage_errors("locking the synchronisation", path), path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def follow(
    state_dir: Path, name: str, every_s: float, uri: str | None = None, experiment: str | None = None
) -> None:  # fmt: skip
    """Keep MLflow told for as long as the endpoint is served, and once more after its end.

    A server that is down is asked again every time; nothing but a line is lost by that.
    """
    os.nice(NICENESS)
    log = _started(state_dir, name)
    told = ""
    while True:
        served = log.is_served()
        try:
            result = sync(log, uri, experiment)
            problem = result.reason
        except LabError as error:
            problem = error.what if error.got is None else f"{error.what} ({error.got})"
        if problem and problem != told:
            warn(f"tracking: {problem}; the endpoint goes on, `lab endpoints sync` tells the server later")
        elif told and not problem:
            say("tracking: the server is back and was told everything")
        told = problem
        if not served:
            return
        ends = time.monotonic() + every_s
        while time.monotonic() < ends and log.is_served():
            time.sleep(_LOOK_EVERY_S)


def _started(state_dir: Path, name: str) -> EndpointLog:
    """Wait for an endpoint that is just starting to write its first sample. Raises ArtifactError."""
    ends = time.monotonic() + _START_S
    while time.monotonic() < ends:
        with contextlib.suppress(ArtifactError):
            log = EndpointLog(state_dir / name)
            if log.is_served() and log.variants():
                return log
        time.sleep(_LOOK_EVERY_S)
    return find(state_dir, [name])[0]
