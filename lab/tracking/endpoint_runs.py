"""The MLflow runs of one endpoint: a run with a child per served model, and what its guard decided.

Nothing is remembered here. The server itself holds how far it was told (tags of the endpoint's run), so that a new
server, a deleted run or a lost disk is told everything from the start, and repeating a transfer that was cut short
changes nothing: runs are found by the endpoint's id before they are made, metrics carry the time they were measured
at, tags overwrite themselves.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from lab.core.progress import warn
from lab.tracking.context import NOTE_TAG, source_tags
from lab.tracking.sender import MAX_METRICS, MAX_PARAMS_OR_TAGS, experiment_id_of
from lab.tracking.server import is_refusal

ENDPOINT_TAG, VARIANT_TAG = "lab.endpoint_id", "lab.endpoint_variant"
SAMPLE_TAG, DECISION_TAG = "lab.synced_sample", "lab.synced_decision"
PARENT_TAG = "mlflow.parentRunId"
CHAMPION, CHALLENGER = "champion", "challenger"
MAX_TAG_LENGTH = 8000
_UNNAMABLE = re.compile(r"[^\w\-. /:]")
"""What MLflow refuses in the name of a metric."""
Version = tuple[str, str]
"""(registered model, version)."""


class EndpointRuns:
    """Writes one endpoint's runs through an MlflowClient. Everything raises what the client raises.

    Args:
        endpoint_id: unique, kept by the endpoint.
        started_s: of the endpoint's first sample; steps are seconds since then.
    """

    def __init__(
        self, client: Any, uri: str, experiment: str, endpoint_id: str, name: str, started_s: float
    ) -> None:  # fmt: skip
        self.client, self.endpoint_id, self.name, self.started_s = client, endpoint_id, name, started_s
        self.experiment_id = experiment_id_of(client, uri, experiment)
        self._variants = self._existing()
        found = self._variants.pop("", None)
        tags = {"lab.kind": "endpoint", "lab.endpoint": name}
        self.run_id = str(found.info.run_id) if found else self._create(name, "", started_s, tags)
        self._tags: Mapping[str, str] = found.data.tags if found else {}
        there = [run.info for run in (found, *self._variants.values()) if run is not None]
        self._ended = {info.run_id: info.end_time if info.status == "FINISHED" else None for info in there}

    def _existing(self) -> dict[str, Any]:
        """This endpoint's runs by the key of their variant, "" for its own."""
        wanted = f"tags.`{ENDPOINT_TAG}` = '{self.endpoint_id}'"
        found = self.client.search_runs([self.experiment_id], wanted, max_results=1000)
        return {run.data.tags.get(VARIANT_TAG, ""): run for run in found}

    def _create(self, name: str, key: str, started_s: float, tags: Mapping[str, str]) -> str:
        known = source_tags() | dict(tags) | {ENDPOINT_TAG: self.endpoint_id, VARIANT_TAG: key}
        run = self.client.create_run(self.experiment_id, int(started_s * 1e3), known, name)
        return str(run.info.run_id)

    def synced(self, tag: str) -> int:
        """Up to which sample or decision the server has been told."""
        return int(self._tags.get(tag, "0"))

    def set_synced(self, tag: str, number: int) -> None:
        self.client.set_tag(self.run_id, tag, str(number))

    def variant(self, key: str, name: str, started_s: float, params: Mapping[str, str], tags: Mapping[str, str]) -> str:
        """The child run of a model behind a variant's name; made when it is not there."""
        run = self._variants.get(key)
        if run is None:
            run_id = self._create(name, key, started_s, {"lab.kind": "variant"} | dict(tags))
        else:
            run_id = str(run.info.run_id)
        if run is None or not run.data.params:
            self.client.log_batch(run_id, params=[Param(*pair) for pair in params.items() if pair[1]])
        if run is None or run.data.tags.get(PARENT_TAG) != self.run_id:
            self.client.set_tag(run_id, PARENT_TAG, self.run_id)
        return run_id

    def log(self, run_id: str, points: Sequence[tuple[float, Mapping[str, float]]]) -> None:
        """Metrics at the times (seconds since 1970) they were measured at."""
        metrics = [
            Metric(_UNNAMABLE.sub("_", name), value, int(time_s * 1e3), int(time_s - self.started_s))
            for time_s, values in points
            for name, value in values.items()
        ]
        for start in range(0, len(metrics), MAX_METRICS):
            self.client.log_batch(run_id, metrics=metrics[start : start + MAX_METRICS])

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        entities = [RunTag(key, value[:MAX_TAG_LENGTH]) for key, value in tags.items()]
        for start in range(0, len(entities), MAX_PARAMS_OR_TAGS):
            self.client.log_batch(run_id, tags=entities[start : start + MAX_PARAMS_OR_TAGS])

    def set_note(self, run_id: str, markdown: str) -> None:
        """The description that the UI shows on top of a run."""
        self.set_tags(run_id, {NOTE_TAG: markdown})

    def log_json(self, run_id: str, name: str, document: object) -> None:
        """A file of the run, replaced each time."""
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch, name)
            path.write_text(json.dumps(document, indent=1), encoding="utf-8")
            self.client.log_artifact(run_id, str(path))

    def set_ended(self, run_id: str, ended_s: float | None) -> None:
        """Whether a run goes on, or when it ended."""
        before, now_ms = self._ended.get(run_id), None if ended_s is None else int(ended_s * 1e3)
        if before == now_ms:
            return
        if now_ms is None:
            self.client.update_run(run_id, status="RUNNING")
        else:
            self.client.set_terminated(run_id, "FINISHED", now_ms)
        self._ended[run_id] = now_ms

    def tag_version(self, version: Version, tags: Mapping[str, str]) -> bool:
        """Write a decision on the registered model it is about; False when that version is gone."""
        try:
            for key, value in tags.items():
                self.client.set_model_version_tag(*version, key, value)
        except MlflowException as error:
            return self._gone(version, error)
        return True

    def promote(self, winner: Version, loser: Version | None) -> bool:
        """Move the aliases: the winner is the champion of its registered model.

        Where the loser is a version of the same model, it becomes the challenger if the winner was that: an endpoint
        whose configuration names both aliases can still be started. Returns False when the winner is gone.
        """
        model, number = winner
        try:
            found = self.client.get_registered_model(model).aliases
            aliases = {alias: str(points_at) for alias, points_at in found.items()}  # numbers from a database
            if aliases.get(CHAMPION) != number:
                self.client.set_registered_model_alias(model, CHAMPION, number)
            if loser is not None and loser[0] == model and aliases.get(CHALLENGER) == number:
                self.client.set_registered_model_alias(model, CHALLENGER, loser[1])
        except MlflowException as error:
            return self._gone(winner, error)
        return True

    def _gone(self, version: Version, error: MlflowException) -> bool:
        if not is_refusal(error):
            raise error
        told = str(error).splitlines()[0]
        warn(f"endpoint {self.name}: model {version[0]}, version {version[1]} takes no decision: {told}")
        return False
