"""Uploads what a server that was down, or a process that was killed, left in the journals of runs.

Killing an upload at any point is safe, and so is repeating a finished one: each journal remembers what the server has.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lab.artifacts.rundir import RunDir
from lab.core.progress import track
from lab.tracking.offline import FOLDER, Spool, list_spools
from lab.tracking.server import connect, describe, resolve_uri

REQUEST_TIMEOUT_S = 120  # nobody's training waits here, so a slow server may take its time over large files
Outcome = Literal["uploaded", "complete", "in use", "failed"]


@dataclass(frozen=True)
class Synced:
    """What became of one tracked run.

    `outcome`: "uploaded" now; "complete" before; "in use" by a process that uploads it itself; "failed", with a reason.
    """

    folder: Path
    run_name: str
    run_id: str
    outcome: Outcome
    num_sent: int = 0
    num_refused: int = 0
    reason: str = ""


def sync_runs(root: Path, uri: str | None = None) -> list[Synced]:
    """Upload what is left of every run below `root` (`root/<task>/<run>/tracking/`); see `sync_run`."""
    folders = sorted(path.parent for path in root.glob(f"*/*/{FOLDER}"))
    return [synced for folder in track(folders, "uploading", len(folders)) for synced in sync_run(folder, uri)]


def sync_run(folder: Path, uri: str | None = None) -> list[Synced]:
    """Upload what is left of one run's folder, its child runs included, parents first.

    Args:
        uri: the server or database; default MLFLOW_TRACKING_URI, else the one each run was started with.

    Raises:
        TrackingError: the server does not answer.
        MissingToolError: MLflow is not installed.
    """
    return [_sync(spool, uri) for spool in list_spools(folder)]


def _sync(spool: Spool, uri: str | None) -> Synced:
    first = spool.first()
    assert first is not None, "list_spools leaves out empty journals"
    name = str(first.fields["run_name"])
    if not spool.acquire():
        return Synced(spool.folder, name, spool.state.run_id, "in use")
    try:
        if not spool.has_pending():
            return Synced(spool.folder, name, spool.state.run_id, "complete", num_refused=spool.state.num_refused)
        target = resolve_uri(uri or str(first.fields["uri"]))
        client = connect(target, REQUEST_TIMEOUT_S)
        try:
            num_sent = _upload(spool, client, target)
        except Exception as error:  # noqa: BLE001 one run's trouble must not keep the others from being uploaded
            return Synced(spool.folder, name, spool.state.run_id, "failed", reason=describe(error))
        return Synced(spool.folder, name, spool.state.run_id, "uploaded", num_sent, spool.state.num_refused)
    finally:
        spool.close()


def _upload(spool: Spool, client: Any, uri: str) -> int:
    from lab.tracking.sender import Sender, last_time_ms

    sender = Sender(spool, client, uri)
    num_sent = sender.drain()
    if not spool.state.status:  # its process died before it could say how the run ended
        sender.end("killed", last_time_ms(spool))
    run = RunDir(spool.run_folder)
    if run.status.exists() and run.read_status().get("mlflow_run_id") == spool.local_id:
        run.update_status(mlflow_run_id=spool.state.run_id)
    return num_sent


def pending_runs(root: Path) -> list[Path]:
    """Run folders below `root` with something left to upload; reads the disk only."""
    folders = sorted(path.parent for path in root.glob(f"*/*/{FOLDER}"))
    return [folder for folder in folders if any(spool.has_pending() for spool in list_spools(folder))]
