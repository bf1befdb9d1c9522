"""The tracker of a run: every call goes into the run's journal at once, and to MLflow in the background."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.artifacts.manifest import MANIFEST_NAME
from lab.config.run import TrackingConfig
from lab.core.errors import TrackingError
from lab.core.interfaces import RunStatus
from lab.core.progress import warn
from lab.tracking.context import NOTE_TAG, source_tags, summary
from lab.tracking.null import NullTracker
from lab.tracking.offline import LOCAL_PREFIX, Spool, encode_number
from lab.tracking.server import is_http, resolve_uri, sqlite_path
from lab.tracking.system_metrics import PREFIX as SYSTEM_PREFIX
from lab.tracking.system_metrics import SystemMetrics
from lab.tracking.uploader import Uploader

if TYPE_CHECKING:
    from lab.artifacts.manifest import Manifest
    from lab.core.interfaces import Tracker

MAX_PARAM_LENGTH = 6000
MAX_TAG_LENGTH = 8000
INHERITED_PARAMS = ("task", "name", "seed", "model.name", "data.dataset")
"""Copied from a parent onto its children, so that the compare view tells their rows apart."""


@dataclass(frozen=True)
class Origin:
    """What a child run shares with its parent."""

    config: TrackingConfig
    experiment: str
    run_name: str
    folder: Path


class MlflowTracker:
    """See `lab.core.interfaces.Tracker`; made by `open_tracker`.

    `run_id` is MLflow's once the server has the run, until then the journal's own ("local-..."); `open_tracker`
    accepts either, for ever.
    """

    def __init__(self, spool: Spool, uri: str, origin: Origin) -> None:
        self.spool = spool
        self.uri = uri
        self.origin = origin
        self.run_id = spool.local_id
        self._uploader = Uploader(spool, uri)
        self._system: SystemMetrics | None = None
        self._logged = _logged_steps(spool)
        self._latest: dict[str, float] = {}
        self._has_note = False
        self._is_finished = False

    def start(self, *, system_metrics: bool) -> None:
        """Make the run known to the server, then upload in the background."""
        self._uploader.start()
        self._learn_run_id()
        if system_metrics:
            steps = [step for key, step in self._logged if key.startswith(SYSTEM_PREFIX)]
            self._system = SystemMetrics(self.log_metrics, first_step=max(steps, default=-1) + 1)
            self._system.start()

    @property
    def is_online(self) -> bool:
        """Whether the last exchange with the server succeeded."""
        return self._uploader.is_online

    def log_params(self, params: Mapping[str, object]) -> None:
        """Nested mappings become dotted keys; values longer than MLflow takes are cut, and say so."""
        for key, value in flatten(params):
            self.spool.append("params", key=key, value=_fit(key, _text(value), MAX_PARAM_LENGTH))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Steps that were logged before the run was resumed are not logged again."""
        values = {k: float(v) for k, v in metrics.items() if step is None or (k, step) not in self._logged}
        self._latest |= values
        if values:
            encoded = {key: encode_number(value) for key, value in values.items()}
            self.spool.append("metrics", values=encoded, step=step or 0)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """A file or a folder; one outside the run's folder is copied, because it may be gone at upload.

        Raises:
            TrackingError: there is no such file.
        """
        if not path.exists():
            raise TrackingError("the file to log does not exist", got=path)
        target = str(Path(folder, path.name)) if path.is_dir() and not folder else folder
        self.spool.append("artifact", path=self.spool.keep(path), folder=target)

    def log_dataset(self, card: Mapping[str, Any]) -> None:
        """Name, digest, source and sizes; the whole digest is a tag too, as MLflow keeps 36 characters of it."""
        self.spool.append("dataset", card=json.loads(json.dumps(dict(card), default=str)))
        if card.get("digest"):
            self.set_tags({"lab.dataset_digest": str(card["digest"])})

    def register_model(self, *, name: str, folder: Path, manifest: Manifest) -> None:
        """Upload the files that the manifest lists and register them as a new version of model `name`.

        An exported ONNX model of one file gets MLflow's onnx flavor; weights, bundles and programs, which need a loop,
        the lab's own.
        """
        self.spool.append(
            "model",
            name=name,
            folder=self.spool.keep(folder),
            files=[MANIFEST_NAME, *sorted(manifest.files)],
            flavor="onnx" if manifest.kind == "onnx" and not manifest.functions else "lab",
            signature=manifest.signature.to_dict(),
            metadata={"task": manifest.task, "kind": manifest.kind, "labels": len(manifest.labels)},
            tags={"lab.kind": manifest.kind, "lab.task": manifest.task or "", "lab.run": self.origin.run_name},
            versions=manifest.versions,
            key=uuid.uuid4().hex,
        )

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self._has_note |= NOTE_TAG in tags
        for key, value in tags.items():
            self.spool.append("tags", key=key, value=_fit(key, str(value), MAX_TAG_LENGTH))

    def link(self) -> str:
        """The run's address on a server, else the command that shows it."""
        state = self.spool.state
        if self._uploader.is_online and is_http(self.uri):
            return f"{self.uri.rstrip('/')}/#/experiments/{state.experiment_id}/runs/{state.run_id}"
        if not self._uploader.is_online:
            return f"kept in {self.spool.folder}; upload it with: lab runs sync"
        database = sqlite_path(self.uri)
        default = database == Path.cwd() / "mlflow.db"
        shown = "make ui" if default else f"mlflow ui --backend-store-uri {self.uri}"
        return f"{shown}  (experiment {self.origin.experiment}, run {self.origin.run_name})"

    def flush(self) -> bool:
        """Upload everything logged so far now; False when the server could not take it."""
        delivered = self._uploader.flush()
        self._learn_run_id()
        return delivered

    def finish(self, status: RunStatus = "finished") -> None:
        """Record how the run ended and upload the rest; calling again does nothing."""
        if self._is_finished:
            return
        self._is_finished = True
        if self._system is not None:
            self._system.stop()
        if not self._has_note:
            note = summary(self.origin.run_name, self.origin.folder, status, self._latest)
            self.set_tags({NOTE_TAG: note})
        self.spool.append("finish", status=status)
        delivered = self._uploader.stop()
        self._learn_run_id()
        self.spool.close()
        if not delivered:
            warn(f"tracking: not everything of this run reached {self.uri}; upload it later with: lab runs sync")

    def _learn_run_id(self) -> None:
        self.run_id = self.spool.state.run_id or self.spool.local_id


def open_tracker(
    config: TrackingConfig,
    *,
    experiment: str,
    run_name: str,
    folder: Path,
    parent_run_id: str | None = None,
    tags: Mapping[str, str] | None = None,
    run_id: str | None = None,
) -> Tracker:
    """Start tracking a run, or go on with the run `run_id`.

    A server that is down, hangs or dies costs a few seconds at most: the run's journal keeps everything in
    `<folder>/tracking/` until `lab runs sync`.

    Args:
        folder: the run's folder; children of a run share it.
        run_id, parent_run_id: ids as an earlier tracker's `run_id` gave them, MLflow's or local ones.

    Raises:
        ConfigError: the tracking URI has a scheme MLflow does not know.
        TrackingError: another process is tracking the run `run_id` right now.
        StorageError: the run's folder is not writable.
    """
    if not config.enabled:
        return NullTracker()
    uri = resolve_uri(config.uri)
    origin = Origin(config, experiment, run_name, folder)
    existing = Spool.find(folder, run_id) if run_id else None
    spool = existing or Spool.create(folder)
    spool.open_for_append()
    if existing:
        spool.append("resume")
    else:
        known = "" if (run_id or "").startswith(LOCAL_PREFIX) else run_id or ""
        _begin(spool, origin, uri, known, parent_run_id or "", dict(tags or {}))
    tracker = MlflowTracker(spool, uri, origin)
    if existing:
        tracker.set_tags(tags or {})
    tracker.start(system_metrics=config.system_metrics and not parent_run_id)
    return tracker


def child(tracker: Tracker, name: str, tags: Mapping[str, str] | None = None) -> Tracker:
    """A run nested below `tracker`'s, in the same experiment and folder, with the parent's identifying parameters."""
    if not isinstance(tracker, MlflowTracker):
        return NullTracker()
    origin = tracker.origin
    return open_tracker(
        origin.config,
        experiment=origin.experiment,
        run_name=name,
        folder=origin.folder,
        parent_run_id=tracker.run_id,
        tags=tags,
    )


def _begin(spool: Spool, origin: Origin, uri: str, run_id: str, parent_run_id: str, tags: dict[str, str]) -> None:
    fitted = {key: _fit(key, str(value), MAX_TAG_LENGTH) for key, value in (source_tags() | tags).items()}
    spool.append(
        "create",
        experiment=origin.experiment,
        run_name=origin.run_name,
        run_id=run_id,
        parent_run_id=parent_run_id,
        tags=fitted,
        uri=uri,
    )
    parent = Spool.find(origin.folder, parent_run_id) if parent_run_id else None
    for operation in parent.operations() if parent else ():
        if operation.kind == "params" and operation.fields["key"] in INHERITED_PARAMS:
            spool.append("params", **operation.fields)


def _logged_steps(spool: Spool) -> frozenset[tuple[str, int]]:
    """(metric, step) pairs a resumed run has logged already; training repeats those since its last checkpoint."""
    found = (op for op in spool.operations() if op.kind == "metrics" and op.fields["step"])
    return frozenset((key, op.fields["step"]) for op in found for key in op.fields["values"])


def flatten(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Leaves of nested mappings with dotted keys, in order."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _text(value: object) -> str:
    return json.dumps(value, default=str) if isinstance(value, (list, tuple)) else str(value)


def _fit(key: str, text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    mark = f" ... [cut: {len(text)} characters]"
    warn(f"tracking: '{key}' has {len(text)} characters, MLflow takes {limit}; the rest is only in the run's folder")
    return text[: limit - len(mark)] + mark
