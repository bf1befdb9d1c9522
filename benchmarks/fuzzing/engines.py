"""One target in one process: findings are written down as they come and do not end the run.

    FOLDER/seeds, corpus   inputs
    FOLDER/findings/       HASH.bin and HASH.json of each distinct finding
    FOLDER/stats.json      executions and how they ended, rewritten about every half second

atheris is asked first (libFuzzer's mutations and ours, guided by coverage of the lab's bytecode); without it a plain
loop mutates seeds and keeps what ended in a new way. Native code (Pillow, NumPy, libjpeg, httptools) is not
instrumented: there the seeds and the mutations must do.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.fuzzing.limits import MAX_INPUT_BYTES, Target, check, signature_of
from benchmarks.fuzzing.mutate import mutate

_WRITE_EVERY_S = 0.5
_HANG_S, _RSS_LIMIT_MB = 300, 4096
"""libFuzzer's own limits, by the wall clock: for what never comes back to Python."""
_MAX_KEPT = 500


@dataclass
class Run:
    """Counts and findings of one process."""

    target: Target
    folder: Path
    executions: int = 0
    endings: Counter[str] = field(default_factory=Counter)
    signatures: set[str] = field(default_factory=set)
    _written_s: float = 0.0

    def one(self, data: bytes) -> str:
        """Try one input; how it ended."""
        self.executions += 1
        try:
            ended = check(self.target, data)
        except Exception as error:  # noqa: BLE001  whatever escapes is what is looked for
            ended = "finding"
            self._keep(data, error)
        self.endings[ended] += 1
        if time.monotonic() - self._written_s > _WRITE_EVERY_S:
            self.write()
        return ended

    def write(self) -> None:
        self._written_s = time.monotonic()
        temporary = self.folder / "stats.tmp"
        temporary.write_text(json.dumps({"executions": self.executions, "endings": dict(self.endings)}))
        temporary.replace(self.folder / "stats.json")

    def _keep(self, data: bytes, error: BaseException) -> None:
        signature = signature_of(error)
        if signature in self.signatures:
            return
        self.signatures.add(signature)
        name = hashlib.sha256(signature.encode()).hexdigest()[:16]
        found = self.folder / "findings"
        found.mkdir(parents=True, exist_ok=True)
        (found / f"{name}.bin").write_bytes(data)
        told = {"signature": signature, "error": repr(error)[:500], "traceback": traceback.format_exception(error)[-8:]}
        (found / f"{name}.json").write_text(json.dumps(told, indent=1))


def load_target(name: str, context: Any = None) -> Target:
    """Import the targets (inside `context`, which instruments what is imported) and take one."""
    with context or nullcontext():
        targets = importlib.import_module("benchmarks.fuzzing.targets").TARGETS
    found: Target = targets[name]
    return found


def fuzz(name: str, folder: Path, seconds: float, seed: int, engine: str) -> None:
    """Fuzz one target for so long. Does not return under atheris: libFuzzer ends the process."""
    if engine == "atheris":
        _atheris(name, folder, seconds, seed)
    target = load_target(name)
    run, ends = Run(target, folder), time.monotonic() + seconds
    plain(run, random.Random(seed), lambda: time.monotonic() < ends)
    run.write()


def plain(run: Run, rng: random.Random, goes_on: Callable[[], bool]) -> None:
    """The seeds, then mutations of them and of inputs that ended in a new way, until `goes_on` says no."""
    seeds = run.target.seeds()
    kept, known = list(seeds), {run.one(seed) for seed in seeds}
    while goes_on():
        data = mutate(rng.choice(kept), rng, run.target.words, kept)[:MAX_INPUT_BYTES]
        ended = run.one(data)
        if (ended not in known or rng.random() < 0.01) and len(kept) < _MAX_KEPT:
            known.add(ended)
            kept.append(data)


def _atheris(name: str, folder: Path, seconds: float, seed: int) -> None:
    import atheris

    target = load_target(name, atheris.instrument_imports(include=["lab"]))
    run, seeds = Run(target, folder), target.seeds()
    for part in ("seeds", "corpus"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(seeds):
        (folder / "seeds" / str(number)).write_bytes(content)
    ends = time.monotonic() + seconds

    def mutator(data: bytes, max_size: int, number: int) -> bytes:
        rng = random.Random(number)
        if rng.random() < 0.5:
            return bytes(atheris.Mutate(data, max_size))
        return mutate(data, rng, target.words, seeds)[:max_size]

    def one(data: bytes) -> None:
        run.one(data)
        if time.monotonic() > ends:
            run.write()
            sys.stderr.flush()
            os._exit(0)

    atheris.Setup(
        [sys.argv[0], f"-seed={seed}", f"-max_len={MAX_INPUT_BYTES}", f"-timeout={_HANG_S}",
         f"-rss_limit_mb={_RSS_LIMIT_MB}", f"-artifact_prefix={folder}/native-", "-len_control=0",
         str(folder / "corpus"), str(folder / "seeds")],
        one, custom_mutator=mutator,
    )  # fmt: skip
    atheris.Fuzz()
