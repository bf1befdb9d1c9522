"""What an endpoint leaves on disk for whoever comes later, in `<state folder>/<endpoint>/`.

    history.sqlite   per variant and interval: weight, traffic, errors, latency, outcomes, evidence
    guard.sqlite     decisions with their evidence; `lab.serve.guard.log` writes it
    serving.lock     held, shared, by whoever serves; the kernel lets go of it when that process dies

Both databases are in WAL mode, so that a reader (the synchronisation with MLflow, a person with `sqlite3`) never holds
up the endpoint. Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import sqlite3
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from lab.core.errors import ArtifactError, StorageError

HISTORY_NAME = "history.sqlite"
DECISIONS_NAME = "guard.sqlite"
LOCK_NAME = "serving.lock"
SCHEMA_VERSION = 1
MAX_SAMPLES = 200_000
"""Older ones are dropped when the history is opened: two variants at one sample a minute fill it in ten weeks."""
_CACHE_KIB = 64
"""Pages kept in memory: SQLite's own 2 MiB fill up within hours, and nothing here reads what it wrote."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS variants (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, sha256 TEXT NOT NULL, facts TEXT NOT NULL, first_s REAL NOT NULL,
    UNIQUE (name, sha256));
CREATE TABLE IF NOT EXISTS samples (
    id INTEGER PRIMARY KEY AUTOINCREMENT, variant INTEGER NOT NULL, time_s REAL NOT NULL, metrics TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS samples_of_variant ON samples (variant, id);
"""
_DECISIONS = "SELECT id, experiment, time_s, kind, reason, weights, evidence FROM decisions WHERE id > ?"


@dataclass(frozen=True)
class Sample:
    """One variant at one moment.

    Args:
        facts: what does not change while the model stays the same; "sha256" tells models apart.
        metrics: of the interval that ends here.
        counts: of the interval; kept as running totals, which go on after a restart.
    """

    variant: str
    facts: Mapping[str, str]
    time_s: float
    metrics: Mapping[str, float]
    counts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class VariantRecord:
    """A model that stood behind a variant's name, from `first_s` on."""

    id: int
    name: str
    facts: dict[str, str]
    first_s: float


@dataclass(frozen=True)
class Point:
    """A stored sample: `metrics` of its interval, and totals."""

    id: int
    variant: int
    time_s: float
    metrics: dict[str, float]


class HistoryWriter:
    """Appends samples; used from one thread at a time.

    Args:
        meta: facts of the endpoint, kept beside its id.

    Raises:
        ArtifactError: the file is no such history, or of another version.
        StorageError: it cannot be made.
    """

    def __init__(self, folder: Path, meta: Mapping[str, str] | None = None) -> None:
        path = folder / HISTORY_NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, check_same_thread=False, timeout=5.0)
            self._open(meta or {})
        except sqlite3.DatabaseError as error:
            raise ArtifactError("the endpoint's history cannot be opened", got=f"{error} ({path})") from error
        except OSError as error:
            raise StorageError("the endpoint's history cannot be made", got=f"{error.strerror} ({path})") from error
        self._ids: dict[tuple[str, str], int] = {}
        self._totals: dict[int, dict[str, float]] = {}

    def _open(self, meta: Mapping[str, str]) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, SCHEMA_VERSION):
            raise ArtifactError("the endpoint's history has another version", got=version, expected=SCHEMA_VERSION)
        self._db.executescript(f"{_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION};")
        self._db.execute("INSERT OR IGNORE INTO meta VALUES ('endpoint_id', ?)", (uuid.uuid4().hex,))
        self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", meta.items())
        self._db.execute("DELETE FROM samples WHERE id <= (SELECT max(id) FROM samples) - ?", (MAX_SAMPLES,))
        self._db.commit()

    def add(self, samples: Sequence[Sample]) -> None:
        """Commit samples as one transaction. Raises StorageError when the disk is full; nothing was kept then."""
        before = {key: dict(totals) for key, totals in self._totals.items()}
        try:
            for sample in samples:
                variant = self._variant(sample)
                totals = self._added_up(variant, sample.counts)
                body = json.dumps({**sample.metrics, **totals})
                self._db.execute(
                    "INSERT INTO samples (variant, time_s, metrics) VALUES (?, ?, ?)", (variant, sample.time_s, body)
                )
            self._db.commit()
        except sqlite3.OperationalError as error:
            self._db.rollback()
            self._totals = before
            self._ids.clear()
            raise StorageError("the endpoint's history cannot be written", got=str(error)) from error

    def _variant(self, sample: Sample) -> int:
        key = (sample.variant, sample.facts.get("sha256", ""))
        if key not in self._ids:
            self._db.execute(
                "INSERT OR IGNORE INTO variants (name, sha256, facts, first_s) VALUES (?, ?, ?, ?)",
                (*key, json.dumps(dict(sample.facts)), sample.time_s),
            )
            row = self._db.execute("SELECT id FROM variants WHERE name = ? AND sha256 = ?", key).fetchone()
            self._ids[key] = int(row[0])
        return self._ids[key]

    def _added_up(self, variant: int, counts: Mapping[str, float]) -> dict[str, float]:
        if variant not in self._totals:
            row = self._db.execute(
                "SELECT metrics FROM samples WHERE variant = ? ORDER BY id DESC LIMIT 1", (variant,)
            ).fetchone()
            last = json.loads(row[0]) if row else {}
            self._totals[variant] = {key: value for key, value in last.items() if key.endswith("_total")}
        totals = self._totals[variant]
        for name, count in counts.items():
            totals[f"{name}_total"] = totals.get(f"{name}_total", 0.0) + count
        return totals

    def close(self) -> None:
        self._db.close()


class EndpointLog:
    """Reads what an endpoint wrote, also while it runs.

    Raises:
        ArtifactError: there is no history, or it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, folder.name
        if not (folder / HISTORY_NAME).is_file():
            raise ArtifactError(
                f"there is no endpoint's history in {folder}", expected=HISTORY_NAME, hint="lab serve CONFIG writes one"
            )

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[sqlite3.Connection]:
        path = self.folder / name
        try:
            with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5.0)) as db:
                yield db
        except sqlite3.DatabaseError as error:
            raise ArtifactError(f"{name} cannot be read", got=f"{error} ({path})") from error

    def meta(self) -> dict[str, str]:
        """ "endpoint_id", made with the history, names the endpoint on every tracking server; and what it was given."""
        with self._reading(HISTORY_NAME) as db:
            return dict(db.execute("SELECT key, value FROM meta").fetchall())

    def variants(self) -> list[VariantRecord]:
        """Every model that was ever served, oldest first."""
        with self._reading(HISTORY_NAME) as db:
            rows = db.execute("SELECT id, name, facts, first_s FROM variants ORDER BY id").fetchall()
        return [VariantRecord(row[0], row[1], json.loads(row[2]), row[3]) for row in rows]

    def points(self, after_id: int = 0, limit: int = -1) -> list[Point]:
        """Samples with an id above `after_id`, oldest first."""
        with self._reading(HISTORY_NAME) as db:
            rows = db.execute(
                "SELECT id, variant, time_s, metrics FROM samples WHERE id > ? ORDER BY id LIMIT ?", (after_id, limit)
            ).fetchall()
        return [Point(row[0], row[1], row[2], json.loads(row[3])) for row in rows]

    def latest(self) -> dict[int, Point]:
        """The newest sample of each variant."""
        with self._reading(HISTORY_NAME) as db:
            rows = db.execute(
                "SELECT id, variant, time_s, metrics FROM samples WHERE id IN "
                "(SELECT max(id) FROM samples GROUP BY variant)"
            ).fetchall()
        return {row[1]: Point(row[0], row[1], row[2], json.loads(row[3])) for row in rows}

    def decisions(self, after_id: int = 0) -> list[dict[str, Any]]:
        """Decisions with an id above `after_id`, oldest first; none where the endpoint has no guard."""
        if not (self.folder / DECISIONS_NAME).is_file():
            return []
        with self._reading(DECISIONS_NAME) as db:
            return select_decisions(db, after_id)

    def is_served(self) -> bool:
        """Whether a process serves the endpoint at this moment."""
        path = self.folder / LOCK_NAME
        if not path.exists():
            return False
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False


def select_decisions(db: sqlite3.Connection, after_id: int, limit: int = -1) -> list[dict[str, Any]]:
    """The newest `limit` rows of a guard's log with an id above `after_id`, oldest first."""
    rows = db.execute(f"{_DECISIONS} ORDER BY id DESC LIMIT ?", (after_id, limit)).fetchall()
    names = ("id", "experiment", "time_s", "kind", "reason")
    return [
        dict(zip(names, row[:5], strict=True)) | {"weights": json.loads(row[5]), "evidence": json.loads(row[6])}
        for row in reversed(rows)
    ]


def hold_serving_lock(folder: Path) -> BinaryIO:
    """Let others see that the endpoint is served, until the file is closed or the process dies."""
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / LOCK_NAME).open("ab")
    fcntl.flock(file, fcntl.LOCK_SH)  # a reader that asks holds it for microseconds
    return file


def list_endpoints(state_dir: Path) -> list[EndpointLog]:
    """The endpoints below a state folder that have a history."""
    return [EndpointLog(path.parent) for path in sorted(state_dir.glob(f"*/{HISTORY_NAME}"))]
