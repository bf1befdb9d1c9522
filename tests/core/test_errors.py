"""The error tree: every error has an exit code, a kind of its own, and a message in four parts."""

from __future__ import annotations

import inspect

import pytest

from lab.cli.main import EXIT_CODES, exit_code
from lab.core import errors

ALL = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, errors.LabError)]


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_every_error_maps_to_its_own_exit_code(cls: type[errors.LabError]) -> None:
    assert cls in EXIT_CODES
    assert exit_code(cls("x")) == EXIT_CODES[cls]
    assert f"|-- {cls.__name__}" in errors.__doc__ or f"`-- {cls.__name__}" in errors.__doc__ or cls is errors.LabError


def test_exit_codes_and_kinds_are_distinct() -> None:
    assert len(set(EXIT_CODES.values())) == len(EXIT_CODES)
    assert len({cls.kind for cls in ALL}) == len(ALL)


def test_message_has_what_got_expected_and_hint() -> None:
    error = errors.DataError("x.png is broken", got="12 bytes", expected="a PNG", hint="copy it again")
    assert str(error) == "x.png is broken\n  got:      12 bytes\n  expected: a PNG\n  try:      copy it again"
    assert error.to_dict() == {
        "kind": "data",
        "what": "x.png is broken",
        "got": "12 bytes",
        "expected": "a PNG",
        "try": "copy it again",
    }


def test_subclass_without_a_code_of_its_own_takes_its_parents() -> None:
    class Special(errors.IntegrityError):
        pass

    assert exit_code(Special("x")) == EXIT_CODES[errors.IntegrityError]
