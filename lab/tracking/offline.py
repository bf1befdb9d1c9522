"""The journal on disk through which everything a run tracks goes, whether or not the server answers.

`<run folder>/tracking/<local id>/` holds, for one tracked run:

    journal.jsonl   one operation per line, in order; written before anything is sent
    state.json      how many bytes of the journal the server has acknowledged, and the run's id there
    refused.jsonl   operations the server will never accept, with its reason
    files/          copies of logged files that lie outside the run's folder
    lock            held by the process that writes or uploads; the kernel releases it when that process dies

A training process that was killed and a server that was down therefore leave the same thing behind: a journal longer
than its acknowledged part.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from lab.artifacts.files import read_json, storage_errors, write_json
from lab.core.errors import ArtifactError, TrackingError

LOCAL_PREFIX = "local-"
FOLDER = "tracking"


@dataclass(frozen=True)
class State:
    """What the server has: the journal's first `acknowledged` bytes, as run `run_id` of the server at `uri`."""

    acknowledged: int = 0
    run_id: str = ""
    experiment_id: str = ""
    uri: str = ""
    status: str = ""
    num_refused: int = 0


@dataclass(frozen=True)
class Operation:
    """One line of the journal; `start` and `end` are its byte offsets."""

    kind: str
    time_ms: int
    fields: dict[str, Any]
    start: int
    end: int


class Spool:
    """One tracked run on disk. Appending is thread-safe; one process at a time holds the lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder = folder.absolute()
        self.local_id = folder.name
        self.run_folder = folder.parent.parent
        self.journal = folder / "journal.jsonl"
        self._state_path = folder / "state.json"
        self._append_lock = threading.Lock()
        self._file: BinaryIO | None = None
        self._lock_file: BinaryIO | None = None
        self.state = State(**read_json(self._state_path)) if self._state_path.exists() else State()

    @classmethod
    def create(cls, run_folder: Path) -> Spool:
        folder = run_folder / FOLDER / f"{LOCAL_PREFIX}{uuid.uuid4().hex[:16]}"
        with storage_errors("creating the tracking journal", folder):
            folder.mkdir(parents=True)
        return cls(folder)

    @classmethod
    def find(cls, run_folder: Path, run_id: str) -> Spool | None:
        """The journal of a run, by its local id or by its id on the server."""
        for spool in list_spools(run_folder):
            if run_id in (spool.local_id, spool.state.run_id):
                return spool
        return None

    def acquire(self) -> bool:
        """Take the lock; False when another process, or another tracker of this one, holds it."""
        if self._lock_file is not None:
            return True
        with storage_errors("locking the tracking journal", self.folder):
            file = (self.folder / "lock").open("wb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._lock_file = file
        self.state = State(**read_json(self._state_path)) if self._state_path.exists() else State()
        return True

    def open_for_append(self) -> None:
        """Get ready to append; a line that a kill cut short is removed.

        Raises:
            TrackingError: another process is writing this journal.
            StorageError: the folder is not writable.
        """
        if not self.acquire():
            raise TrackingError(
                f"the tracking journal {self.folder} is in use",
                got="another process holds its lock",
                hint="this run is being trained or uploaded elsewhere: wait for that, or stop it",
            )
        with storage_errors("opening the tracking journal", self.journal):
            self._file = self.journal.open("ab", buffering=0)
            os.truncate(self.journal, self._complete_bytes())

    def _complete_bytes(self) -> int:
        data = self.journal.read_bytes() if self.journal.exists() else b""
        return data.rfind(b"\n") + 1

    def append(self, kind: str, **fields: Any) -> None:
        """Write one operation. It survives the death of this process as soon as this returns.

        Raises:
            StorageError: the disk is full; the journal is as it was before.
        """
        if self._file is None:
            raise TrackingError("this tracker is finished, nothing can be logged any more", got=kind)
        line = json.dumps({"op": kind, "time_ms": int(time.time() * 1000), **fields}, allow_nan=False).encode() + b"\n"
        with self._append_lock, storage_errors("writing the tracking journal", self.journal):
            size = os.fstat(self._file.fileno()).st_size
            try:
                if self._file.write(line) != len(line):
                    raise OSError("the disk took only a part of the line")
            except OSError:
                os.truncate(self.journal, size)
                raise

    def operations(self, start: int = 0) -> Iterator[Operation]:
        """Complete operations from a byte offset on. Raises ArtifactError on a damaged line."""
        if not self.journal.exists():
            return
        with self.journal.open("rb") as file:
            file.seek(start)
            while (line := file.readline()).endswith(b"\n"):
                end = start + len(line)
                yield self._parse(line, start, end)
                start = end

    def _parse(self, line: bytes, start: int, end: int) -> Operation:
        try:
            fields = json.loads(line)
            return Operation(fields.pop("op"), fields.pop("time_ms"), fields, start, end)
        except (ValueError, KeyError, AttributeError) as error:
            raise ArtifactError(f"{self.journal} is damaged at byte {start}", got=repr(error)) from error

    def first(self) -> Operation | None:
        return next(self.operations(), None)

    def has_pending(self) -> bool:
        """Whether the server lacks operations, or was never told how a run ended that nobody is writing any more."""
        return self._complete_bytes() > self.state.acknowledged or not self.state.status

    def update(self, **changes: Any) -> None:
        """Record progress atomically. Raises StorageError."""
        self.state = replace(self.state, **changes)
        write_json(self._state_path, asdict(self.state))

    def refuse(self, operation: Operation, reason: str) -> None:
        """Keep an operation the server rejected, so that it can be read; it is not sent again."""
        record = {"op": operation.kind, **operation.fields, "time_ms": operation.time_ms, "reason": reason}
        path = self.folder / "refused.jsonl"
        with storage_errors("recording a refused operation", path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.update(num_refused=self.state.num_refused + 1)

    def keep(self, path: Path) -> str:
        """A path for the journal: relative for files of the run, which stay; others are copied, as they may not."""
        resolved, root = path.resolve(), self.run_folder.resolve()
        if resolved.is_relative_to(root) and not resolved.is_relative_to(self.folder.resolve()):
            return resolved.relative_to(root).as_posix()
        copy = self.folder / "files" / uuid.uuid4().hex[:8] / path.name
        with storage_errors("keeping a copy for the tracker", copy):
            copy.parent.mkdir(parents=True)
            if path.is_dir():
                shutil.copytree(path, copy)
            else:
                shutil.copy2(path, copy)
        return copy.resolve().relative_to(root).as_posix()

    def close(self) -> None:
        """Sync the journal to disk and release the lock; calling again does nothing."""
        if self._file is not None:
            with storage_errors("closing the tracking journal", self.journal):
                os.fsync(self._file.fileno())
            self._file.close()
            self._file = None
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None


def list_spools(run_folder: Path) -> list[Spool]:
    """The journals of one run's folder, in the order in which they were begun, so parents come before children."""
    spools = [Spool(path.parent) for path in (run_folder / FOLDER).glob(f"{LOCAL_PREFIX}*/journal.jsonl")]
    begun = [(first.time_ms, spool) for spool in spools if (first := spool.first()) is not None]
    return [spool for _, spool in sorted(begun, key=lambda pair: (pair[0], pair[1].local_id))]


def encode_number(value: float) -> float | str:
    """JSON has no infinity and no NaN; those travel as text that `float` reads back."""
    return value if math.isfinite(value) else repr(value)
