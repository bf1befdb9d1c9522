"""A board that runs TVM's RPC server: candidates are built and linked here, sent there, checked and timed there."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import rpc

from lab.compile.link import export_library
from lab.compile.targets import Target
from lab.compile.tuning.stats import Comparison, compared
from lab.compile.tuning.trial import ENTRY, MIN_PAIRS, Candidate
from lab.core.errors import ConfigError, MissingToolError, last_line

CALLS_PER_TURN = 3
FLUSH = "cache_flush_cpu_non_first_arg"
"""TVM's name for: throw weights and outputs out of the caches before a call, keep the first input."""


@dataclass(frozen=True)
class Address:
    """Where a board's RPC server listens, and the key it was started with."""

    host: str
    port: int
    key: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """ "host:port" or "host:port:key". Raises ConfigError."""
        host, _, rest = text.partition(":")
        port, _, key = rest.partition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
            raise ConfigError("the board's address is malformed", got=text, expected="HOST:PORT or HOST:PORT:KEY")
        return cls(host, int(port), key)

    def connect(self) -> Any:
        """Raises MissingToolError where nobody answers."""
        try:
            return rpc.connect(self.host, self.port, key=self.key, session_timeout=0)
        except Exception as error:  # TVM raises several kinds
            raise MissingToolError(
                f"no RPC server at {self.host}:{self.port}", got=last_line(error),
                hint="start one on the board: TVM_BIND_THREADS=0 python -m tvm.exec.rpc_server --port PORT",
            ) from error  # fmt: skip


@dataclass
class Remote:
    """A kernel on the board with its arguments there."""

    timer: Any
    function: Any
    arguments: list[Any]


class BoardBench:
    """One session with a board."""

    def __init__(self, address: Address) -> None:
        self.session = address.connect()
        self.device = self.session.cpu()
        self.count = 0

    def load(self, built: Any, candidate: Candidate, target: Target) -> Remote:
        self.count += 1
        with tempfile.TemporaryDirectory() as scratch:
            library = Path(scratch) / f"trial{self.count % 64}.so"
            export_library(built, library, target)
            self.session.upload(str(library))
        module = self.session.load_module(library.name)
        arguments = [tvm.runtime.tensor(array, self.device) for array in (*candidate.arrays, candidate.output)]
        timer = module.time_evaluator(ENTRY, self.device, number=1, repeat=CALLS_PER_TURN, f_preproc=FLUSH)
        return Remote(timer, module[ENTRY], arguments)

    def output(self, loaded: Remote) -> np.ndarray:
        loaded.function(*loaded.arguments)
        return np.array(loaded.arguments[-1].numpy())

    def compare(self, default: Remote, other: Remote, seconds: float) -> Comparison:
        times: tuple[list[float], list[float]] = ([], [])
        end = time.perf_counter() + seconds
        while len(times[0]) < MIN_PAIRS or time.perf_counter() < end:
            for which in (0, 1) if len(times[0]) % 2 else (1, 0):
                loaded = (default, other)[which]
                times[which].append(float(np.median(loaded.timer(*loaded.arguments).results)))
        return compared(*times)
