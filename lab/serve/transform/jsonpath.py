"""The part of JSONPath that batch transform understands: which columns or fields of a record to keep.

    $            the record             .name        a field            *            every field or element
    ['a','b']    fields, as an object   [0,-1]       elements           [1:]  [0,5:] slices, also mixed with elements

A single name or index gives the value itself; a list of them, a slice or `*` gives several, as an object (names) or an
array. What follows a `*` or a slice is applied to each of its values. An index or name that does not exist is an error.

Source: Amazon SageMaker developer guide, "Associate Prediction Results with Input Records", supported operators.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lab.core.errors import ConfigError, DataError

MAX_LENGTH = 63
_NAME = re.compile(r"\.([A-Za-z_][\w-]*)")
_STAR = re.compile(r"\.\*|\.?\[\s*\*\s*\]")
_NAMES = re.compile(r"\.?\[\s*('[^']*'(?:\s*,\s*'[^']*')*)\s*\]")
_PLACES = re.compile(r"\.?\[\s*((?:-?\d*:-?\d*|-?\d+)(?:\s*,\s*(?:-?\d*:-?\d*|-?\d+))*)\s*\]")


@dataclass(frozen=True)
class Names:
    """One field, or several as an object."""

    names: tuple[str, ...]

    def select(self, value: Any) -> Any:
        if not isinstance(value, dict) or any(name not in value for name in self.names):
            raise DataError("the record has no such field", got=_shown(value), expected=", ".join(self.names))
        if len(self.names) == 1:
            return value[self.names[0]]
        return {name: value[name] for name in self.names}

    @property
    def is_many(self) -> bool:
        return False


@dataclass(frozen=True)
class Places:
    """Elements and slices of an array."""

    places: tuple[int | slice, ...]

    def select(self, value: Any) -> Any:
        if not isinstance(value, list):
            raise DataError("the record is no array", got=_shown(value))
        if not self.is_many and len(self.places) == 1:
            return self._one(value, self.places[0])
        found: list[Any] = []
        for place in self.places:
            found += value[place] if isinstance(place, slice) else [self._one(value, place)]
        return found

    @staticmethod
    def _one(value: list[Any], place: int | slice) -> Any:
        assert isinstance(place, int)
        if not -len(value) <= place < len(value):
            raise DataError("the record has no such element", got=f"{len(value)} elements", expected=f"element {place}")
        return value[place]

    @property
    def is_many(self) -> bool:
        return any(isinstance(place, slice) for place in self.places)


@dataclass(frozen=True)
class Star:
    """Every value."""

    is_many = True

    def select(self, value: Any) -> Any:
        if isinstance(value, dict):
            return list(value.values())
        if isinstance(value, list):
            return value
        raise DataError("the record has neither fields nor elements", got=_shown(value))


Step = Names | Places | Star


def parse(path: str) -> tuple[Step, ...]:
    """The steps of a path; none for "$".

    Raises:
        ConfigError: not of this part of JSONPath, or too long.
    """
    if not path.startswith("$") or len(path) > MAX_LENGTH:
        raise ConfigError("a filter is no path", got=path, expected=f"$ and what follows, {MAX_LENGTH} letters at most")
    steps: list[Step] = []
    at = 1
    while at < len(path):
        step, at = _next_step(path, at)
        steps.append(step)
    return tuple(steps)


def _next_step(path: str, at: int) -> tuple[Step, int]:
    if found := _NAME.match(path, at):
        return Names((found[1],)), found.end()
    if found := _STAR.match(path, at):
        return Star(), found.end()
    if found := _NAMES.match(path, at):
        return Names(tuple(re.findall(r"'([^']*)'", found[1]))), found.end()
    if found := _PLACES.match(path, at):
        return Places(tuple(_place(part.strip()) for part in found[1].split(","))), found.end()
    raise ConfigError(
        f"a filter cannot be read from letter {at + 1} on", got=path,
        expected="$ .name .* ['a','b'] [0,-1] [1:] [0,5:]",
    )  # fmt: skip


def _place(text: str) -> int | slice:
    if ":" not in text:
        return int(text)
    start, _, stop = text.partition(":")
    return slice(int(start) if start else None, int(stop) if stop else None)


def select(steps: Sequence[Step], value: Any) -> Any:
    """What a path finds in a record. Raises DataError when it finds nothing."""
    for number, step in enumerate(steps):
        value = step.select(value)
        rest = steps[number + 1 :]
        if step.is_many and rest:
            return [select(rest, item) for item in value]
    return value


def _shown(value: Any) -> str:
    return f"fields {', '.join(value)}"[:100] if isinstance(value, dict) else f"{type(value).__name__} {value!r}"[:100]
