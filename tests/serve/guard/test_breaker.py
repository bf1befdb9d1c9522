"""The breaker opens on disasters, and on nothing less."""

from __future__ import annotations

import pytest

from lab.serve.guard.breaker import Breaker
from lab.serve.guard.config import BreakerConfig


def fed(statuses: str, config: BreakerConfig | None = None, unit: int | None = None) -> Breaker:
    """o: ok, x: model error, c: client error, r: rejected."""
    names = {"o": "ok", "x": "model_error", "c": "client_error", "r": "rejected"}
    breaker = Breaker(config or BreakerConfig())
    for i, letter in enumerate(statuses):
        breaker.observe(float(i), names[letter], 1.0, i if unit is None else unit)
    return breaker


@pytest.mark.parametrize(
    ("statuses", "opens"),
    [
        ("x" * 19, False),  # the window is not full
        ("x" * 20, True),
        ("ox" * 10, True),  # half
        ("oxo" * 20, False),  # a third
        ("o" * 100 + "x" * 9, False),
        ("o" * 100 + "x" * 10, True),
        ("c" * 100 + "r" * 100, False),  # says nothing of the model
        ("xc" * 19, False),
        ("xc" * 20, True),  # client errors neither count nor push failures out
    ],
)
def test_errors(statuses: str, opens: bool) -> None:
    assert bool(fed(statuses).opened) == opens


def test_one_client_alone_cannot_open_it() -> None:
    assert fed("x" * 100, unit=7).opened is None
    assert fed("x" * 100, BreakerConfig(min_units=1), unit=7).opened == {
        "reason": "too many of its last requests failed", "num_failed": 20, "window": 20,
    }  # fmt: skip


def test_disabled_never_opens() -> None:
    assert fed("x" * 100, BreakerConfig(enabled=False)).opened is None


def slow_windows(shares_slow: list[float], per_window: int = 200) -> Breaker:
    breaker = Breaker(BreakerConfig(p99_limit_ms=50.0, p99_window_s=10.0, p99_windows=3, p99_min_requests=100))
    for window, share in enumerate(shares_slow):
        for i in range(per_window):
            slow = i < share * per_window
            breaker.observe(window * 10.0 + i * 9.99 / per_window, "ok", 60.0 if slow else 5.0, i)
    breaker.close_window(10.0 * len(shares_slow) + 0.1)
    return breaker


def test_p99_above_the_hard_limit_for_three_windows() -> None:
    assert slow_windows([0.02, 0.02]).opened is None
    assert slow_windows([0.02, 0.01, 0.02, 0.02]).opened is None  # 1 % slow is a p99 at the limit, not above
    assert slow_windows([0.02, 0.02, 0.02]).opened == {
        "reason": "its p99 latency stays above the hard limit", "p99_limit_ms": 50.0, "num_windows": 3,
    }  # fmt: skip


def test_windows_with_few_requests_say_nothing() -> None:
    assert slow_windows([1.0] * 6, per_window=99).opened is None


def test_a_crash_loop() -> None:
    breaker = Breaker(BreakerConfig(max_crashes=3, crash_window_s=60.0))
    for time_s in (0.0, 50.0, 100.0):
        breaker.crashed(time_s)
    assert breaker.opened is None
    breaker.crashed(110.0)
    assert breaker.opened == {"reason": "its workers crash again and again", "num_crashes": 3}
    breaker.reset()
    assert breaker.opened is None
