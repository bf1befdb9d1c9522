"""The search over a rule's decisions: one decision after the other, the best option of each kept, until none gains.

Short measurements rank the options, longer ones the few that are left, and a fresh process confirms the best: among
many candidates some look fast by chance.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from lab.compile.tuning.decisions import Choice
from lab.compile.tuning.stats import Comparison
from lab.compile.tuning.worker import Trial

RANK_S, FINAL_S, CONFIRM_S = 0.1, 0.4, 1.0
NUM_FINALISTS = 3
MAX_OPTIONS = 24
MAX_SWEEPS = 2
STEP = 1.01
"""What an option must gain over the best so far to be kept on the way."""


Taken = dict[str, tuple[Any, list[Any]]]
Ranked = tuple[float, dict[str, Any], Taken]
"""Gain, what was chosen, and all decisions with that."""


class Prober(Protocol):
    """What the search needs of a worker."""

    def trial(self, choice: Choice, seconds: float) -> Trial: ...

    def restart(self) -> None: ...


@dataclass(frozen=True)
class Found:
    """The best choice that is clearly faster than the rule's own, or None; and what the search saw."""

    choice: Choice | None
    comparison: Comparison | None
    num_trials: int
    failures: tuple[str, ...] = ()


class BudgetSpent(Exception):  # noqa: N818  not a failure
    """The time is over in the middle of a kernel; what was found of it so far is given up."""


@dataclass
class Search:
    """Search for one task. `deadline` is of `time.monotonic`."""

    prober: Prober
    max_trials: int
    seeds: Sequence[Choice] = ()
    """Tried first: what was best elsewhere, with other threads or on another CPU."""
    deadline: float = float("inf")
    progress: Callable[[], None] = lambda: None
    num_trials: int = 0
    failures: list[str] = field(default_factory=list)
    seen: dict[str, tuple[float, Choice]] = field(default_factory=dict)
    last: Comparison | None = None

    def run(self, opened: Trial) -> Found:
        """Raises BudgetSpent."""
        self._walk(opened)
        finalists = sorted(self.seen.values(), key=lambda item: -item[0])[:NUM_FINALISTS]
        measured = [
            (trial.comparison, choice)
            for gain, choice in finalists
            if gain > STEP and (trial := self._try(choice, FINAL_S)) is not None and trial.comparison is not None
        ]
        best = max(measured, key=lambda item: item[0].gain, default=None)
        if best is None or not best[0].is_clear:
            return self._found(None, best[0] if best else self.last)
        self.prober.restart()
        confirmed = self._try(best[1], CONFIRM_S)
        comparison = confirmed.comparison if confirmed else None
        if comparison is None or not comparison.is_clear:
            return self._found(None, comparison)
        choice = Choice(best[1].rule, best[1].parameters, round(comparison.gain, 4))
        return self._found(choice, comparison)

    def _found(self, choice: Choice | None, comparison: Comparison | None) -> Found:
        return Found(choice, comparison, self.num_trials, tuple(self.failures))

    def _walk(self, opened: Trial) -> None:
        """Rank options of one decision after the other, from the rule's own values or the best seed on."""
        chosen: dict[str, Any] = {}
        taken, best = dict(opened.taken or {}), 1.0
        for seed in [each for each in self.seeds if each.rule == opened.rule][: self.max_trials]:
            found = self._rank(opened.rule, dict(seed.parameters))
            if found is not None and found[0] > best * STEP:
                best, chosen, taken = found
        for _ in range(MAX_SWEEPS):
            before = best
            for name in list(taken):
                found = self._best_option(opened.rule, name, taken, chosen)
                if found is not None and found[0] > best * STEP:
                    best, chosen, taken = found
            if best == before or len(taken) == 1:
                return

    def _best_option(
        self, rule: str, name: str, taken: Mapping[str, tuple[Any, list[Any]]], chosen: Mapping[str, Any]
    ) -> Ranked | None:
        best: Ranked | None = None
        value, options = taken.get(name, (None, []))
        for option in [each for each in options if each != value][:MAX_OPTIONS]:
            if self.num_trials >= self.max_trials:
                break
            found = self._rank(rule, {**chosen, name: option})
            if found is not None and (best is None or found[0] > best[0]):
                best = found
        return best

    def _rank(self, rule: str, parameters: dict[str, Any]) -> Ranked | None:
        """Measure shortly, and remember the candidate with every decision, also those that follow from the others."""
        trial = self._try(Choice(rule, parameters), RANK_S)
        if trial is None or trial.comparison is None or trial.taken is None:
            return None
        complete = {each: value for each, (value, _) in trial.taken.items()}
        gain = trial.comparison.gain
        self.seen[repr(sorted(complete.items()))] = (gain, Choice(rule, complete))
        return gain, parameters, dict(trial.taken)

    def _try(self, choice: Choice, seconds: float) -> Trial | None:
        if time.monotonic() > self.deadline:
            raise BudgetSpent
        self.num_trials += 1
        trial = self.prober.trial(choice, seconds)
        self.progress()
        if trial.error:
            self.failures.append(f"{dict(choice.parameters)}: {trial.error}")
            return None
        self.last = trial.comparison
        return trial
