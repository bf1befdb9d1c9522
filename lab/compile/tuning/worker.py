"""A process of its own for trials: a candidate that crashes or hangs costs this process, and is lost alone."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from lab.compile.tuning.decisions import Choice
from lab.compile.tuning.stats import Comparison
from lab.core.errors import LabError, last_line

if TYPE_CHECKING:
    from lab.compile.targets import Target
    from lab.compile.tuning.board import Address
    from lab.compile.tuning.choices import Identity
    from lab.compile.tuning.tasks import Task

START_FACTOR = 4
"""The first trial of a process also imports TVM and reads the task."""


@dataclass(frozen=True)
class Trial:
    """What came of one candidate. `error` is empty where it was measured.

    `taken` are its decisions: name -> (value, all options).
    """

    rule: str = ""
    taken: Mapping[str, tuple[Any, list[Any]]] | None = None
    comparison: Comparison | None = None
    error: str = ""


class Worker:
    """Starts the process when there is something to do, and again after one was lost.

    Args:
        address: of a board that runs the trials; None is this machine.
        setup: called first in the process, to size the thread pool.
        limit_s: seconds that building and checking one candidate may take, beyond the time to measure.
    """

    def __init__(
        self,
        target: Target,
        address: Address | None = None,
        setup: Callable[[], object] | None = None,
        limit_s: float = 30.0,
    ) -> None:
        self.target, self.address, self.setup, self.limit_s = target, address, setup, limit_s
        self._process: Any = None
        self._pipe: Any = None
        self._opened: tuple[Any, ...] | None = None

    def open(self, task: Task, known: Mapping[Identity, Choice]) -> Trial:
        """Build the untuned kernel; every candidate is compared with it."""
        self._opened = (task, dict(known))
        return self._ask(("open", *self._opened), START_FACTOR * self.limit_s)

    def trial(self, choice: Choice, seconds: float) -> Trial:
        """Build, check and measure one candidate of the open task."""
        if self._process is None and self._opened is not None:
            again = self._ask(("open", *self._opened), START_FACTOR * self.limit_s)
            if again.error:
                return again
        return self._ask(("trial", choice, seconds), self.limit_s + 2 * seconds)

    def restart(self) -> None:
        """Continue in a fresh process: other addresses, other pages."""
        self.close()

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None

    def _ask(self, message: tuple[Any, ...], limit_s: float) -> Trial:
        if self._process is None:
            self._start()
        try:
            self._pipe.send(message)
            if not self._pipe.poll(limit_s):
                self.close()
                return Trial(error=f"took longer than {limit_s:.3g} s")
            answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode
            self.close()
            return Trial(error=f"the process died (exit code {code})")
        if isinstance(answer, LabError):
            raise answer
        assert isinstance(answer, Trial)
        return answer

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        # Nothing else as an argument: reading one back may import TVM before _serve has said which library to load.
        process = context.Process(target=_serve, args=(theirs,), daemon=True)
        process.start()
        self._process = process
        theirs.close()
        with contextlib.suppress(OSError):  # a process that died at once is found by the first question
            self._pipe.send((self.target, self.address, self.setup))


def _serve(pipe: Connection) -> None:
    """The process: answers until nobody asks any more."""
    os.environ.pop("TVM_USE_RUNTIME_LIB", None)  # set by whatever only ran bundles before it asked for tuning
    target, address, setup = pipe.recv()
    if setup is not None:
        setup()
    from lab.compile.tuning import trial

    try:
        if address is None:
            bench: trial.Bench = trial.LocalBench(target)
        else:
            from lab.compile.tuning.board import BoardBench

            bench = BoardBench(address)
    except LabError as error:
        pipe.recv()
        pipe.send(error)
        return
    state = _State(target, bench)
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            what, *rest = pipe.recv()
            try:
                answer = state.open(*rest) if what == "open" else state.trial(*rest)
            except trial.TrialFailed as error:
                answer = Trial(error=str(error))
            except Exception as error:  # noqa: BLE001  whatever a candidate does, the others go on
                answer = Trial(error=f"{type(error).__name__}: {last_line(error)}")
            pipe.send(answer)


class _State:
    """The open task: its untuned kernel, loaded, and what that computes."""

    def __init__(self, target: Target, bench: Any) -> None:
        self.target, self.bench = target, bench
        self.task: Any = None
        self.known: Mapping[Any, Choice] = {}
        self.default: Any = None
        self.expected: Any = None

    def open(self, task: Task, known: Mapping[Identity, Choice]) -> Trial:
        self.task, self.known = task, known
        candidate, self.default = self._load(None)
        self.expected = self.bench.output(self.default)
        return Trial(candidate.rule, candidate.taken)

    def trial(self, choice: Choice, seconds: float) -> Trial:
        from lab.compile.tuning.trial import check_same

        candidate, loaded = self._load(choice)
        check_same(self.expected, self.bench.output(loaded))
        return Trial(candidate.rule, candidate.taken, self.bench.compare(self.default, loaded, seconds))

    def _load(self, choice: Choice | None) -> tuple[Any, Any]:
        from lab.compile.tuning import trial

        candidate = trial.prepare(self.task, self.target, self.known, choice)
        return candidate, self.bench.load(trial.build(candidate, self.target), candidate, self.target)
