from __future__ import annotations

import sys

import pytest

from lab.core.errors import ConfigError
from lab.core.seeding import stream, stream_seed
from lab.core.tables import LazyTable
from lab.core.timing import Stages, interleaved


def test_entries_are_imported_only_when_chosen() -> None:
    table = LazyTable("colour", {"red": "colorsys:rgb_to_hsv", "blue": "no.such.module:x"})
    sys.modules.pop("colorsys", None)
    assert list(table) == ["red", "blue"]
    assert "colorsys" not in sys.modules
    assert table["red"](0, 0, 0) == (0.0, 0.0, 0)


def test_unknown_name_lists_the_options_and_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown colour 'redd'") as caught:
        LazyTable("colour", {"red": "x", "blue": "y"})["redd"]
    assert caught.value.expected == "red, blue"
    assert caught.value.hint == "did you mean 'red'?"


def test_streams_are_named_not_counted() -> None:
    assert stream_seed(7, "shuffle", 3) == stream_seed(7, "shuffle", 3)
    assert len({stream_seed(7, "shuffle", 3), stream_seed(7, "shuffle", 4), stream_seed(8, "shuffle", 3)}) == 3
    assert stream(7, "a").integers(1 << 30) == stream(7, "a").integers(1 << 30)


def test_interleaved_calls_every_engine_equally_often() -> None:
    counts = {"a": 0, "b": 0}

    def count(name: str) -> None:
        counts[name] += 1

    timed = interleaved({n: (lambda n=n: count(n)) for n in counts}, rounds=3, calls_per_round=2, warmup=1)
    assert counts == {"a": 1 + 3 * 3, "b": 1 + 3 * 3}
    assert timed["a"].num_calls == 6
    assert 0 <= timed["a"].p50_ms <= timed["a"].p95_ms


def test_a_stage_is_timed_even_when_it_fails() -> None:
    stages = Stages()
    with pytest.raises(ZeroDivisionError), stages.stage("x"):
        _ = 1 / 0
    assert stages.durations_s["x"] >= 0
