"""`metrics.jsonl`: a line per logged step and per epoch, the numbers of the tracker, without gaps or repeats."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lab.artifacts.files import storage_errors, write_text
from lab.core.interfaces import Tracker

FLUSH_INTERVAL_S = 5.0


class MetricsFile:
    """Lines {"step": s, "epoch": e, metric: value, ...}; steps and epochs count from 1.

    Lines are buffered and handed to the file and the tracker together, so that no step waits for a server. An epoch's
    line has "validation/..." keys, a step's has not. Non-finite values are written as null.
    """

    def __init__(self, path: Path, tracker: Tracker, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._tracker = tracker
        self._clock = clock
        self._flushed_at = clock()
        self._buffer: list[dict[str, Any]] = []
        self._tracked_until = {"step": 0, "epoch": 0}

    def rewind(self, step: int) -> None:
        """Forget lines after optimizer step `step`: a resumed run writes them again, and tracks them only once."""
        lines = read_lines(self.path)
        for line in lines:
            kind = _kind(line)
            self._tracked_until[kind] = max(self._tracked_until[kind], int(line["step"]))
        kept = [line for line in lines if int(line["step"]) <= step]
        if lines:
            write_text(self.path, "".join(map(_dump, kept)))

    def add(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Buffer one line; write the buffer when the last writing is some seconds ago."""
        self._buffer.append({"step": step, "epoch": epoch} | dict(values))
        if self._clock() - self._flushed_at > FLUSH_INTERVAL_S:
            self.flush()

    def flush(self) -> None:
        """Write and track what is buffered. Raises StorageError."""
        self._flushed_at = self._clock()
        if not self._buffer:
            return
        lines, self._buffer = self._buffer, []
        with storage_errors("writing metrics.jsonl", self.path), self.path.open("a", encoding="utf-8") as file:
            file.writelines(map(_dump, lines))
            file.flush()
            os.fsync(file.fileno())
        for line in lines:
            if int(line["step"]) > self._tracked_until[_kind(line)]:
                values = {key: value for key, value in line.items() if key not in ("step", "epoch")}
                self._tracker.log_metrics(values | {"epoch": line["epoch"]}, step=int(line["step"]))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All lines of a metrics file; a last line cut off by a kill is left out. No file: no lines."""
    if not path.exists():
        return []
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def epoch_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of whole epochs, oldest first."""
    return [line for line in read_lines(path) if _kind(line) == "epoch"]


def _kind(line: Mapping[str, Any]) -> str:
    return "epoch" if any(key.startswith("validation/") for key in line) else "step"


def _dump(line: Mapping[str, Any]) -> str:
    finite = {key: value if value - value == 0 else None for key, value in line.items()}
    return json.dumps(finite) + "\n"
