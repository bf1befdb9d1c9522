"""Start `lab serve` as a user would, and talk to it."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import yaml

REPO = Path(__file__).resolve().parents[2]
READY = re.compile(r"is ready on https?://([^:]+):(\d+)")


@dataclass
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Served:
    """A running endpoint: its process, address and what it wrote."""

    process: subprocess.Popen[str]
    host: str
    port: int
    lines: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def call(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        connection = HTTPConnection(self.host, self.port, timeout=30)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def wait_for_line(self, pattern: str, timeout_s: float = 30.0) -> str:
        ends = time.monotonic() + timeout_s
        while time.monotonic() < ends:
            for line in list(self.lines):
                if re.search(pattern, line):
                    return line
            time.sleep(0.02)
        raise AssertionError(f"no line like {pattern!r} in:\n" + "\n".join(self.lines))

    def stop(self, timeout_s: float = 40.0) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)


def write_config(path: Path, state: Path, **config: Any) -> Path:
    """A configuration on any free port, its state below `state`."""
    full = {"endpoint": "shop", "port": 0, "log": {"state_dir": str(state)}} | config
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(full))
    return path


@contextmanager
def serving(config: Path, *arguments: str, timeout_s: float = 120.0) -> Iterator[Served]:
    """`lab serve CONFIG` until the block ends."""
    command = [sys.executable, "-m", "lab.cli.main", "serve", str(config), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=REPO, env=environment)
    lines: list[str] = []
    found: queue.Queue[re.Match[str] | None] = queue.Queue()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line.rstrip())
            match = READY.search(line)
            if match:
                found.put(match)
        found.put(None)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        match = found.get(timeout=timeout_s)
        assert match is not None, "the endpoint did not start:\n" + "\n".join(lines)
        yield Served(process, match[1], int(match[2]), lines)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        reader.join(5)
        assert process.stderr is not None
        process.stderr.close()
