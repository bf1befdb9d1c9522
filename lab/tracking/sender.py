"""Sends a journal's operations to MLflow, in order, each acknowledged on disk once the server has it.

Every operation may be sent again after a kill between the server's answer and the acknowledgement, so each is harmless
when repeated: a run and a model version are looked up by the journal's own id before they are made, metrics carry
their recorded time and are one row per (key, time, step, value) in MLflow's databases, the rest overwrites itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from lab.core.errors import ArtifactError, TrackingError
from lab.core.progress import say, warn
from lab.tracking.model_files import send_model
from lab.tracking.offline import LOCAL_PREFIX, Operation, Spool
from lab.tracking.server import artifact_location, is_refusal

LOCAL_ID_TAG = "lab.local_id"
STATUS = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
BATCHED = frozenset({"metrics", "params", "tags"})
MAX_OPERATIONS_PER_BATCH = 500
MAX_METRICS = 1000
MAX_PARAMS_OR_TAGS = 100
MAX_DIGEST = 36
MAX_WARNINGS = 5


class Sender:
    """Drains one journal into one server."""

    def __init__(self, spool: Spool, client: Any, uri: str) -> None:
        self.spool = spool
        self.client = client
        self.uri = uri
        self._handlers: dict[str, Callable[[list[Operation]], None]] = {
            "create": self._create,
            "resume": self._resume,
            "metrics": self._metrics,
            "params": self._params,
            "tags": self._tags,
            "artifact": self._artifact,
            "dataset": self._dataset,
            "model": self._model,
            "finish": self._finish,
        }

    @property
    def run_id(self) -> str:
        return self.spool.state.run_id

    def drain(self) -> int:
        """Send what is not acknowledged yet; returns how many operations were sent.

        Raises:
            Exception: the first thing that could not be sent now; everything before it is acknowledged.
        """
        num_sent = 0
        self._settle_server()
        for group in _groups(self.spool.operations(self.spool.state.acknowledged)):
            self._send(group)
            self.spool.update(acknowledged=group[-1].end)
            num_sent += len(group)
        return num_sent

    def _settle_server(self) -> None:
        """A journal begun on another server is sent to this one from its start, unless both names mean one server."""
        state = self.spool.state
        if not state.run_id or state.uri == self.uri:
            return
        if self._exists(state.run_id):
            self.spool.update(uri=self.uri)
        else:
            say(f"tracking: {self.uri} does not know this run (it began on {state.uri}); uploading all of it")
            self.spool.update(acknowledged=0, run_id="", experiment_id="", uri=self.uri, status="")

    def _exists(self, run_id: str) -> bool:
        try:
            self.client.get_run(run_id)
        except MlflowException as error:
            if not is_refusal(error):
                raise
            return False
        return True

    def _send(self, group: list[Operation]) -> None:
        handler = self._handlers.get(group[0].kind)
        if handler is None:
            raise ArtifactError(f"{self.spool.journal} has an unknown operation", got=group[0].kind)
        try:
            handler(group)
        except MlflowException as error:
            # Without its run nothing else can be sent, so a refused creation stays pending and is reported.
            if not is_refusal(error) or group[0].kind == "create":
                raise
            if len(group) > 1:
                for operation in group:
                    self._send([operation])
            else:
                self._refuse(group[0], str(error))

    def _refuse(self, operation: Operation, reason: str) -> None:
        self.spool.refuse(operation, reason)
        if self.spool.state.num_refused > MAX_WARNINGS:
            return
        what = operation.fields.get("key") or operation.fields.get("path") or operation.fields.get("name") or ""
        line = reason.splitlines()[0][:300]
        warn(f"the tracker refused {operation.kind} {what}: {line} (kept in {self.spool.folder / 'refused.jsonl'})")

    def _create(self, group: list[Operation]) -> None:
        fields = group[0].fields
        experiment_id = experiment_id_of(self.client, self.uri, fields["experiment"])
        run_id = self._find_run(experiment_id)
        if fields["run_id"] and self._exists(fields["run_id"]):
            run_id = fields["run_id"]
            self.client.update_run(run_id, status="RUNNING")
        if not run_id:
            tags = dict(fields["tags"]) | {LOCAL_ID_TAG: self.spool.local_id}
            if fields["parent_run_id"]:
                tags["mlflow.parentRunId"] = self._parent(fields["parent_run_id"])
            run = self.client.create_run(
                experiment_id, start_time=group[0].time_ms, tags=tags, run_name=fields["run_name"]
            )
            run_id = run.info.run_id
        self.spool.update(run_id=run_id, experiment_id=experiment_id, uri=self.uri, status="")

    def _find_run(self, experiment_id: str) -> str:
        """The run this journal made before it could write that down."""
        found = self.client.search_runs(
            [experiment_id], f"tags.`{LOCAL_ID_TAG}` = '{self.spool.local_id}'", max_results=1
        )
        return str(found[0].info.run_id) if found else ""

    def _parent(self, parent_run_id: str) -> str:
        if not parent_run_id.startswith(LOCAL_PREFIX):
            return parent_run_id
        parent = Spool.find(self.spool.run_folder, parent_run_id)
        if parent is None:
            raise TrackingError("the journal of the parent run is gone", got=parent_run_id)
        if not parent.state.run_id and parent.acquire():
            try:
                Sender(parent, self.client, self.uri).drain()
            finally:
                parent.close()
        if not parent.state.run_id:
            raise TrackingError("the parent run is still being written and not uploaded yet", got=parent_run_id)
        return parent.state.run_id

    def _resume(self, group: list[Operation]) -> None:
        self.client.update_run(self.run_id, status="RUNNING")
        self.spool.update(status="")

    def _metrics(self, group: list[Operation]) -> None:
        metrics = [
            Metric(key, float(value), operation.time_ms, operation.fields["step"])
            for operation in group
            for key, value in operation.fields["values"].items()
        ]
        for chunk in _chunks(metrics, MAX_METRICS):
            self.client.log_batch(self.run_id, metrics=chunk)

    def _params(self, group: list[Operation]) -> None:
        for chunk in _chunks([Param(op.fields["key"], op.fields["value"]) for op in group], MAX_PARAMS_OR_TAGS):
            self.client.log_batch(self.run_id, params=chunk)

    def _tags(self, group: list[Operation]) -> None:
        latest = {op.fields["key"]: op.fields["value"] for op in group}
        for chunk in _chunks([RunTag(key, value) for key, value in latest.items()], MAX_PARAMS_OR_TAGS):
            self.client.log_batch(self.run_id, tags=chunk)

    def _artifact(self, group: list[Operation]) -> None:
        operation = group[0]
        path = self.spool.run_folder / operation.fields["path"]
        if path.is_dir():
            target = PurePosixPath(operation.fields["folder"])
            self.client.log_artifacts(self.run_id, str(path), str(target) if target.parts else None)
        elif path.exists():
            self.client.log_artifact(self.run_id, str(path), operation.fields["folder"] or None)
        else:
            self._refuse(operation, f"the file {path} is gone")

    def _dataset(self, group: list[Operation]) -> None:
        card = dict(group[0].fields["card"])
        source = card.get("source")
        dataset = Dataset(
            name=str(card.get("name") or "dataset"),
            digest=str(card.get("digest") or "unknown")[:MAX_DIGEST],
            source_type="local",
            source=json.dumps({"uri": str(source)}),
            schema=json.dumps({"labels": card.pop("labels", None)}),
            profile=json.dumps(card),
        )
        self.client.log_inputs(self.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])

    def _model(self, group: list[Operation]) -> None:
        folder = self.spool.run_folder / group[0].fields["folder"]
        missing = [name for name in group[0].fields["files"] if not (folder / name).is_file()]
        if missing:
            self._refuse(group[0], f"files of the model are gone from {folder}: {', '.join(missing)}")
        else:
            send_model(self.client, self.run_id, folder, group[0].fields)

    def _finish(self, group: list[Operation]) -> None:
        self.end(group[0].fields["status"], group[0].time_ms)

    def end(self, status: str, time_ms: int | None = None) -> None:
        """Tell the server how the run ended, and when."""
        self.client.set_terminated(self.run_id, STATUS[status], time_ms or int(time.time() * 1000))
        self.spool.update(status=status)


def experiment_id_of(client: Any, uri: str, name: str) -> str:
    """The id of an experiment, made where it is missing. Raises TrackingError when it was deleted."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifact_location(uri, name)))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was quicker
                raise
            experiment = client.get_experiment_by_name(name)
    if experiment.lifecycle_stage != "active":
        raise TrackingError(f"the MLflow experiment '{name}' was deleted", hint="mlflow experiments restore")
    return str(experiment.experiment_id)


def last_time_ms(spool: Spool) -> int:
    """When a journal was last written to."""
    return max((operation.time_ms for operation in spool.operations()), default=0)


def _groups(operations: Iterable[Operation]) -> Iterator[list[Operation]]:
    """Runs of consecutive operations of one kind that one request can carry; others alone."""
    group: list[Operation] = []
    for operation in operations:
        fits = group and operation.kind == group[0].kind and operation.kind in BATCHED
        if group and not (fits and len(group) < MAX_OPERATIONS_PER_BATCH):
            yield group
            group = []
        group.append(operation)
    if group:
        yield group


def _chunks(items: list[Any], size: int) -> Iterator[list[Any]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]
