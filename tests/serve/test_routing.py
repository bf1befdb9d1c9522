"""Shares, stickiness and monotone ramps, over 100,000 draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from lab.core.errors import DataError
from lab.serve.routing import NoTrafficError, Router

NAMES = ("a", "b", "c")
UNITS = [f"user-{number}" for number in range(100_000)]


def assigned(weights: Sequence[float], salt: str = "s", units: Sequence[str] = UNITS) -> list[int]:
    router = Router(salt, NAMES[: len(weights)], weights)
    return [router.route(unit).index for unit in units]


@pytest.mark.parametrize("weights", [(0.9, 0.1), (0.5, 0.5), (1, 2, 5), (0.01, 0.99), (0.3, 0.3, 0.4)])
def test_shares_of_units_are_the_weights(weights: tuple[float, ...]) -> None:
    counts = Counter(assigned(weights))
    expected = [len(UNITS) * weight / sum(weights) for weight in weights]
    assert chisquare([counts[i] for i in range(len(weights))], expected).pvalue > 0.001


def test_shares_of_draws_by_lot_are_the_weights() -> None:
    router = Router("s", NAMES, (0.9, 0.0, 0.1))
    counts = Counter(router.route().index for _ in range(100_000))
    assert counts[1] == 0
    assert chisquare([counts[0], counts[2]], [90_000, 10_000]).pvalue > 0.001


def test_another_salt_assigns_independently() -> None:
    first, second = assigned((0.5, 0.5), "one"), assigned((0.5, 0.5), "two")
    same = sum(a == b for a, b in zip(first, second, strict=True))
    assert chisquare([same, len(UNITS) - same]).pvalue > 0.001


@settings(max_examples=40, deadline=None)
@given(
    before=st.lists(st.floats(0.01, 10), min_size=3, max_size=3), grown=st.integers(0, 2), factor=st.floats(1.01, 20)
)
def test_a_ramp_moves_units_to_the_grown_variant_only(before: list[float], grown: int, factor: float) -> None:
    after = [weight * factor if index == grown else weight for index, weight in enumerate(before)]
    units = UNITS[:500]
    for old, new in zip(assigned(before, units=units), assigned(after, units=units), strict=True):
        assert new in (old, grown)


def test_only_ratios_of_weights_matter() -> None:
    assert assigned((0.9, 0.1), units=UNITS[:2000]) == assigned((9, 1), units=UNITS[:2000])


def test_a_pin_overrides_weights() -> None:
    router = Router("s", NAMES, (1, 0, 0))
    found = router.route("user", target="b")
    assert (found.index, found.reason, found.share) == (1, "target", 0.0)
    with pytest.raises(DataError, match="no variant 'd'"):
        router.route(target="d")


def test_no_weight_is_no_traffic() -> None:
    with pytest.raises(NoTrafficError):
        Router("s", NAMES, (0, 0, 0)).route("user")


def test_a_unit_has_one_hash_whatever_the_weights() -> None:
    hashes = {Router("s", NAMES, weights).route("user-1").unit_hash for weights in ((1, 1, 1), (1, 2, 3))}
    assert len(hashes) == 1
    assert 0 < hashes.pop() < 2**63
