"""The property that every input must have, and how a breach is told."""

from __future__ import annotations

import resource
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.core.errors import LabError

CPU_LIMIT_S = 5.0
"""Of all threads, for one input of at most `MAX_INPUT_BYTES`."""
MEMORY_LIMIT_BYTES = 512 * 1024 * 1024
"""By which one input may raise the process's peak. An image of the default pixel limit takes 75 MB decoded."""
MAX_INPUT_BYTES = 64 * 1024
_HANG_S = 20.0
"""CPU seconds after which an input is interrupted."""


@dataclass(frozen=True)
class Target:
    """One parser. `run` is given the input; `allowed` are the errors it documents."""

    name: str
    what: str
    seeds: Callable[[], list[bytes]]
    run: Callable[[bytes], Any]
    allowed: tuple[type[BaseException], ...] = (LabError,)
    words: tuple[bytes, ...] = field(default=())
    """What mutations put in, beside what they know by themselves."""


class BreachError(Exception):
    """An input ended in neither an answer nor a documented error, or took too much."""


class HangError(BaseException):
    """Raised by the timer: no `except Exception` of the code under test may swallow it."""


def check(target: Target, data: bytes) -> str:
    """Run one input; how it ended: "answered" or the documented error's name.

    Raises:
        BreachError: too much time or memory. Anything else that escapes is the finding itself.
    """
    memory, cpu = _peak_bytes(), time.process_time()
    try:
        with _timer():
            target.run(data)
        ended = "answered"
    except target.allowed as error:
        ended = type(error).__name__
    except HangError:
        raise BreachError(f"still running after {_HANG_S:g} s of CPU time") from None
    took_s, grew = time.process_time() - cpu, _peak_bytes() - memory
    if took_s > CPU_LIMIT_S:
        raise BreachError(f"took {took_s:.1f} s of CPU time, {CPU_LIMIT_S:g} are allowed")
    if grew > MEMORY_LIMIT_BYTES:
        raise BreachError(f"took {grew >> 20} MiB of memory, {MEMORY_LIMIT_BYTES >> 20} are allowed")
    return ended


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def _timer() -> Any:
    def stop(number: int, frame: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, _HANG_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def signature_of(error: BaseException) -> str:
    """What tells one finding from another: the error's type and the innermost place of the lab's own code."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/lab/" in frame.filename] or frames
    where = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "?"
    text = "" if not isinstance(error, BreachError) else " ".join(str(error).split()[:2])
    return f"{type(error).__name__} at {where} {text}".strip()
