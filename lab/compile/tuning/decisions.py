"""Where a rule's model and a measurement meet: a rule names each of its decisions, a record may overrule it.

A rule calls `decide(name, what its model derives, every valid option)`. Without a record it gets back what it derived;
with one, the recorded option. The tuner finds in `taken` what there was to decide, and tries the other options.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Value = Any
"""An option as JSON keeps it: a number, a string, a list or a dictionary of them."""


class StaleChoice(Exception):  # noqa: N818  an answer: the rules have changed since it was measured
    """A recorded choice is none of the rule's options any more; the kernel goes back to what its rule derives."""


@dataclass(frozen=True)
class Choice:
    """What to decide instead of what the rule `rule` derives: `parameters` by the name of the decision.

    `gain` is the measured time of the rule's own parameters over the time with these.
    """

    rule: str
    parameters: Mapping[str, Value]
    gain: float = 1.0


@dataclass(frozen=True)
class Decision:
    """One decision that a rule took. `options` lists all valid values, the most promising first."""

    value: Value
    derived: Value
    options: Callable[[], Sequence[Value]]


@dataclass
class Decisions:
    """The decisions of one rule over one kernel, in the order in which it takes them."""

    chosen: Mapping[str, Value] = field(default_factory=dict)
    taken: dict[str, Decision] = field(default_factory=dict)

    def decide(self, name: str, derived: Value, options: Callable[[], Sequence[Value]]) -> Value:
        """The recorded value of a decision, or `derived` where there is none.

        Raises:
            StaleChoice: the recorded value is not among the options.
        """
        value = self.chosen.get(name, derived)
        if name in self.chosen and value not in options():
            raise StaleChoice(f"{name} {value} is no option any more")
        self.taken[name] = Decision(value, derived, options)
        return value

    def check_all_taken(self) -> None:
        """Raises StaleChoice where a decision was recorded that the rule no longer takes."""
        unknown = sorted(set(self.chosen) - set(self.taken))
        if unknown:
            raise StaleChoice(f"the rule decides no {', '.join(unknown)} any more")
