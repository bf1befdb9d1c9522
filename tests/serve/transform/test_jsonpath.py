"""The subset of JSONPath: what is found, what is refused."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.core.errors import ConfigError, DataError
from lab.serve.transform.jsonpath import parse, select

RECORD = {"id": 7, "features": [1, 2, 3, 4], "more": {"a": {"x": 1}, "b": {"x": 2}}, "odd name": True}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("$", RECORD),
        ("$.id", 7),
        ("$.more.a.x", 1),
        ("$['id']", 7),
        ("$['odd name']", True),
        ("$['id','features']", {"id": 7, "features": [1, 2, 3, 4]}),
        ("$.more.['a']", {"x": 1}),
        ("$.more['a','b']", {"a": {"x": 1}, "b": {"x": 2}}),
        ("$.features[0]", 1),
        ("$.features[-1]", 4),
        ("$.features[0,-1]", [1, 4]),
        ("$.features[1:]", [2, 3, 4]),
        ("$.features[:2]", [1, 2]),
        ("$.features[1:3]", [2, 3]),
        ("$.features[0,2:]", [1, 3, 4]),
        ("$.features[ 0 , 1 ]", [1, 2]),
        ("$.more.*.x", [1, 2]),
        ("$.more[*].x", [1, 2]),
        ("$.features[*]", [1, 2, 3, 4]),
    ],
)
def test_finds(path: str, found: Any) -> None:
    assert select(parse(path), RECORD) == found


@pytest.mark.parametrize("path", ["", "id", "$id", "$.", "$..id", "$[", "$[]", "$['a'", "$[1.5]", "$.a b", "$[?(@.x)]"])
def test_refuses_other_paths(path: str) -> None:
    with pytest.raises(ConfigError, match="filter"):
        parse(path)


def test_a_path_has_63_letters_at_most() -> None:
    assert len(parse("$." + "a" * 61)) == 1
    with pytest.raises(ConfigError, match="63"):
        parse("$." + "a" * 62)


@pytest.mark.parametrize(
    "path", ["$.absent", "$['id','absent']", "$.id[0]", "$.features[4]", "$.features[-5]", "$.id.*"]
)
def test_what_is_not_there_is_an_error(path: str) -> None:
    with pytest.raises(DataError, match="record"):
        select(parse(path), RECORD)


@given(st.lists(st.integers(), max_size=8), st.integers(-9, 9), st.integers(-9, 9))
def test_slices_are_pythons(values: list[int], start: int, stop: int) -> None:
    assert select(parse(f"$[{start}:{stop}]"), values) == values[start:stop]


@given(st.text(alphabet="$.*[]',:ab01- ", max_size=20))
def test_any_text_is_a_path_or_an_error(text: str) -> None:
    """Nothing else is raised, neither by reading the path nor by following it."""
    with suppress(ConfigError, DataError):
        select(parse("$" + text), RECORD)
