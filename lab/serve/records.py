"""Files that grow by lines while requests are served: access log, shadow differences, captured requests.

Lines are handed to a thread over a bounded queue, so that a slow disk never holds up a request: what does not fit is
dropped and counted.
"""

from __future__ import annotations

import base64
import queue
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from lab.core.progress import warn
from lab.serve.config import CaptureConfig

_MAX_WAITING = 10_000


class LineWriter:
    """Appends lines to files in a thread of its own."""

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[Path, Any] | None] = queue.Queue(_MAX_WAITING)
        self._thread = threading.Thread(target=self._run, name="records", daemon=True)
        self._thread.start()
        self._failed: set[Path] = set()

    def put(self, path: Path, record: Any) -> bool:
        """False when the line was dropped."""
        try:
            self._queue.put_nowait((path, record))
        except queue.Full:
            return False
        return True

    def close(self) -> None:
        """Write what waits."""
        self._queue.put(None)
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            lines: dict[Path, list[bytes]] = {item[0]: [_line(item[1])]}
            ended = False
            while not self._queue.empty() and not ended:  # one write per file for all that waits
                more = self._queue.get()
                ended = more is None
                if more is not None:
                    lines.setdefault(more[0], []).append(_line(more[1]))
            for path, parts in lines.items():
                self._append(path, b"".join(parts))
            if ended:
                return

    def _append(self, path: Path, content: bytes) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab", buffering=0) as file:  # one write: lines of several workers do not mix
                file.write(content)
        except OSError as error:
            if path.parent not in self._failed:
                self._failed.add(path.parent)
                warn(f"cannot write {path}: {error.strerror}; its lines are lost")


def _line(record: Any) -> bytes:
    return orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


class Capture:
    """Sampled requests and responses in the layout of SageMaker's model monitor (EP-50, EP-51)."""

    def __init__(self, config: CaptureConfig, writer: LineWriter, draw: Callable[[], float]) -> None:
        self.config, self._writer, self._draw = config, writer, draw
        self._file = uuid.uuid4().hex  # one file per worker and hour

    def wants(self) -> bool:
        """Whether this request is in the sample."""
        return self.config.enabled and self._draw() * 100 < self.config.sampling_percentage

    def put(
        self,
        endpoint: str,
        variant: str,
        request: tuple[str, bytes],
        response: tuple[str, bytes],
        inference_id: str | None,
    ) -> bool:
        """Write one event; (content type, body) of each side. False when it was dropped."""
        now = datetime.now(UTC)
        folder = self.config.destination / endpoint / variant / now.strftime("%Y/%m/%d/%H")
        data: dict[str, Any] = {}
        if "Input" in self.config.modes:
            data["endpointInput"] = self._side("INPUT", *request)
        if "Output" in self.config.modes:
            data["endpointOutput"] = self._side("OUTPUT", *response)
        event = {
            "captureData": data,
            "eventMetadata": {"eventId": str(uuid.uuid4()), "inferenceTime": now.strftime("%Y-%m-%dT%H:%M:%SZ")}
            | ({"inferenceId": inference_id} if inference_id else {}),
            "eventVersion": "0",
        }
        return self._writer.put(folder / f"{self._file}.jsonl", event)

    def _side(self, mode: str, content_type: str, body: bytes) -> Mapping[str, Any]:
        described: dict[str, Any] = {"observedContentType": content_type, "mode": mode}
        if len(body) > self.config.max_payload_bytes:
            return described | {"data": "", "encoding": "BASE64", "truncated": len(body)}
        kind = content_type.partition(";")[0].strip().lower()
        encoding = self._encoding(kind)
        try:
            text = body.decode() if encoding != "BASE64" else base64.b64encode(body).decode()
        except UnicodeDecodeError:
            encoding, text = "BASE64", base64.b64encode(body).decode()
        return described | {"data": text, "encoding": encoding}

    def _encoding(self, kind: str) -> str:
        if kind in self.config.csv_content_types:
            return "CSV"
        return "JSON" if kind in self.config.json_content_types else "BASE64"


def stamp() -> str:
    """UTC, to the millisecond."""
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
