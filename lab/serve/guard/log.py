"""The guard's memory: decisions with their evidence and the state of every test, in one SQLite file (WAL).

A decision and the state it came from are committed together and before the decision is handed out, so that a guard
killed at any moment goes on from a state that agrees with its log. Readers (the synchronisation with MLflow, a person
with `sqlite3`) never block it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lab.artifacts.endpoint_log import select_decisions
from lab.core.errors import ArtifactError, StorageError
from lab.serve.guard.events import Decision

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS decisions (
    id INTEGER PRIMARY KEY AUTOINCREMENT, experiment TEXT NOT NULL, time_s REAL NOT NULL, kind TEXT NOT NULL,
    reason TEXT NOT NULL, weights TEXT NOT NULL, evidence TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS state (id INTEGER PRIMARY KEY CHECK (id = 1), body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS seen_units (purpose TEXT, chunk INTEGER, bits BLOB NOT NULL, PRIMARY KEY (purpose, chunk));
CREATE TABLE IF NOT EXISTS unit_values (
    series TEXT, unit INTEGER, total REAL NOT NULL, num INTEGER NOT NULL, PRIMARY KEY (series, unit)) WITHOUT ROWID;
"""
Chunk = tuple[str, int, bytes]


class DecisionLog:
    """One endpoint's log; used from one thread at a time.

    Args:
        path: the file, made when missing; None keeps everything in memory.

    Raises:
        ArtifactError: the file is not such a log, or of another version.
        StorageError: it cannot be written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._saved = ""
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path or ":memory:", check_same_thread=False)
            self._open()
        except sqlite3.DatabaseError as error:
            raise ArtifactError("the guard's log cannot be opened", got=f"{error} ({path})") from error
        except OSError as error:
            raise StorageError("the guard's log cannot be made", got=f"{error.strerror} ({path})") from error

    def _open(self) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA cache_size=-64")  # KiB; SQLite's own 2 MiB fill up over days
        self._db.execute("PRAGMA busy_timeout=5000")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, SCHEMA_VERSION):
            raise ArtifactError("the guard's log has another version", got=version, expected=SCHEMA_VERSION)
        self._db.executescript(f"{_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION};")

    def load_state(self) -> dict[str, Any] | None:
        """What the last `save` was given; None for a new log."""
        row = self._db.execute("SELECT body FROM state WHERE id = 1").fetchone()
        return None if row is None else dict(json.loads(row[0]))

    def load_seen_units(self) -> list[Chunk]:
        return list(self._db.execute("SELECT purpose, chunk, bits FROM seen_units"))

    def save(
        self, state: dict[str, Any], experiment: str, decisions: Iterable[Decision] = (), chunks: Iterable[Chunk] = ()
    ) -> None:
        """Commit everything since the last call as one transaction; nothing is written when nothing changed.

        Raises:
            StorageError: the disk is full or the file is gone; nothing of this call was kept.
        """
        rows = [
            (experiment, d.time_s, d.kind, d.reason, json.dumps(d.weights), json.dumps(d.evidence)) for d in decisions
        ]
        body, bits = json.dumps(state), list(chunks)
        if body == self._saved and not rows and not bits and not self._db.in_transaction:
            return
        try:
            self._db.executemany(
                "INSERT INTO decisions (experiment, time_s, kind, reason, weights, evidence) VALUES (?, ?, ?, ?, ?, ?)",
                rows,
            )
            self._db.executemany("INSERT OR REPLACE INTO seen_units VALUES (?, ?, ?)", bits)
            self._db.execute("INSERT OR REPLACE INTO state VALUES (1, ?)", (body,))
            self._db.commit()
        except sqlite3.OperationalError as error:
            self._db.rollback()
            raise StorageError("the guard's log cannot be written", got=f"{error} ({self.path})") from error
        self._saved = body

    def forget_units(self) -> None:
        """A new experiment begins: no unit was seen. Committed with the next `save`."""
        self._db.execute("DELETE FROM seen_units")
        self._db.execute("DELETE FROM unit_values")

    def add_unit_value(self, series: str, unit_hash: int, value: float) -> tuple[float | None, float]:
        """Add a value to a unit's mean in a series; returns the mean before (None: its first value) and after."""
        key = (series, _signed(unit_hash))
        row = self._db.execute("SELECT total, num FROM unit_values WHERE series = ? AND unit = ?", key).fetchone()
        total, num = row or (0.0, 0)
        self._db.execute("INSERT OR REPLACE INTO unit_values VALUES (?, ?, ?, ?)", (*key, total + value, num + 1))
        return (total / num if num else None), (total + value) / (num + 1)

    def decisions(self, limit: int = 100, after_id: int = 0) -> list[dict[str, Any]]:
        """The newest `limit` decisions with an id above `after_id`, oldest first."""
        return select_decisions(self._db, after_id, limit)

    def close(self) -> None:
        self._db.close()


def _signed(unit_hash: int) -> int:
    return unit_hash - (1 << 64) if unit_hash >= 1 << 63 else unit_hash
