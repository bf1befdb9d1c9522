"""SageMaker's early stopping (IC-H7..H10) on lists of metric values."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.config.run import EarlyStoppingConfig
from lab.train.early_stopping import Best, EarlyStopping, improvement

NAN = float("nan")


def stop_epoch(values: list[float], mode: Literal["max", "min"] = "max", **config: Any) -> int | None:
    """The epoch (from 1) at which training stops; None when it runs through."""
    stopping = EarlyStopping(EarlyStoppingConfig.model_validate({"enabled": True, "min_epochs": 1} | config), mode)
    return next((epoch for epoch, value in enumerate(values, 1) if stopping.should_stop(value, epoch)), None)


@pytest.mark.parametrize(
    ("values", "config", "expected"),
    [
        ([0.5, 0.6, 0.6, 0.6, 0.7], {"patience": 2}, 4),
        ([0.5, 0.6, 0.6, 0.61, 0.61], {"patience": 2}, None),
        ([0.5, 0.5, 0.5, 0.5], {"patience": 2, "min_epochs": 4}, 4),
        ([0.5, 0.52, 0.54, 0.8], {"patience": 2, "tolerance": 0.1}, 3),
        ([0.5, 0.54, 0.56, 0.58], {"patience": 3, "tolerance": 0.1}, None),  # 0.56 is 12 % over 0.5
        ([0.5, 0.5, 0.5], {"patience": 1, "enabled": False}, None),
        ([0.0, 0.0, 0.1, 0.1, 0.1], {"patience": 2}, 5),
        ([NAN, NAN, 0.3, NAN, NAN], {"patience": 2}, 5),
    ],
)
def test_stops_after_patience_epochs_without_an_improvement_that_counts(
    values: list[float], config: dict[str, Any], expected: int | None
) -> None:
    assert stop_epoch(values, **config) == expected


def test_a_smaller_loss_is_an_improvement_in_mode_min() -> None:
    assert stop_epoch([2.0, 1.5, 1.5, 1.6], "min", patience=2) == 4
    assert stop_epoch([2.0, 1.99, 1.98], "min", patience=2, tolerance=0.05) == 3


def test_best_keeps_the_first_of_equal_values() -> None:
    best = Best("max")
    assert [best.update(v, e) for e, v in enumerate([0.3, 0.3, 0.5, 0.4, 0.5], 1)] == [True, False, True, False, False]
    assert (best.value, best.epoch) == (0.5, 3)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.sampled_from(["max", "min"]))
def test_best_is_the_extreme(values: list[float], mode: Literal["max", "min"]) -> None:
    best = Best(mode)
    for epoch, value in enumerate(values, 1):
        best.update(value, epoch)
    assert best.value == (max(values) if mode == "max" else min(values))


def test_improvement_is_relative() -> None:
    assert improvement(0.55, 0.5, "max") == pytest.approx(0.1)
    assert improvement(0.55, 0.5, "min") == pytest.approx(-0.1)
    assert improvement(-1.0, -2.0, "max") == pytest.approx(0.5)
    assert improvement(0.0, 0.0, "max") == 0.0
    assert improvement(1e-9, 0.0, "max") == float("inf")
    assert improvement(0.1, NAN, "max") == float("inf")
    assert improvement(NAN, 0.1, "max") == float("-inf")
