"""Learning-rate factors against PyTorch's own schedulers."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, OneCycleLR, PolynomialLR

from lab.config.run import ScheduleConfig
from lab.train.early_stopping import Mode
from lab.train.schedules import Plateau, learning_rate, learning_rate_factor


def factors(steps_per_epoch: int, epochs: int, **config: Any) -> list[float]:
    schedule = ScheduleConfig.model_validate(config)
    return [learning_rate_factor(s, schedule, steps_per_epoch, epochs) for s in range(steps_per_epoch * epochs)]


def rates(optimizer: torch.optim.Optimizer, scheduler: LRScheduler, count: int) -> list[float]:
    found = []
    with warnings.catch_warnings():  # the last call of step() goes past the end of a one-cycle schedule
        warnings.simplefilter("ignore")
        for index in range(count):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if index < count - 1:
                scheduler.step()
    return found


def optimizer(rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)


@pytest.mark.parametrize(("steps", "epochs"), [(7, 3), (1, 5), (13, 11), (3, 1)])
@pytest.mark.parametrize(("peak_at", "start", "end"), [(0.3, 25.0, 1e4), (0.5, 10.0, 100.0), (0.05, 3.0, 7.0)])
def test_one_cycle_is_that_of_pytorch(steps: int, epochs: int, peak_at: float, start: float, end: float) -> None:
    total = steps * epochs
    sgd = optimizer(0.4)
    scheduler = OneCycleLR(
        sgd, 0.4, total, pct_start=peak_at, div_factor=start, final_div_factor=end, cycle_momentum=False
    )
    config = ScheduleConfig(name="one_cycle", peak_at=peak_at, start_divisor=start, end_divisor=end)
    ours = [learning_rate(step, 0.4, config, steps, epochs) for step in range(total)]
    assert ours == rates(sgd, scheduler, total)  # bit-equal


def test_cosine_without_warmup_is_that_of_pytorch() -> None:
    sgd = optimizer(0.4)
    expected = rates(sgd, CosineAnnealingLR(sgd, T_max=35, eta_min=0.4 * 0.1), 35)
    assert [0.4 * f for f in factors(7, 5, name="cosine", min_factor=0.1)] == pytest.approx(expected, rel=1e-9)


def test_step_is_that_of_pytorch() -> None:
    sgd = optimizer(0.4)
    expected = rates(sgd, MultiStepLR(sgd, milestones=[2 * 7, 3 * 7], gamma=0.3), 35)
    assert [0.4 * f for f in factors(7, 5, name="step", steps=[2, 3], factor=0.3)] == pytest.approx(expected, rel=1e-9)


def test_poly_is_that_of_pytorch() -> None:
    sgd = optimizer(0.4)
    expected = rates(sgd, PolynomialLR(sgd, total_iters=35, power=0.9), 35)
    ours = [learning_rate(step, 0.4, ScheduleConfig(name="poly"), 7, 5) for step in range(35)]
    assert ours == pytest.approx(expected)


@pytest.mark.parametrize("name", ["constant", "cosine", "poly"])
def test_warmup_rises_linearly_to_one(name: str) -> None:
    found = factors(5, 4, name=name, warmup_epochs=1.4)
    assert found[:7] == pytest.approx([(i + 1) / 7 for i in range(7)])
    assert found[7] == pytest.approx(1.0)


def test_cosine_after_warmup_falls_to_the_minimum() -> None:
    found = factors(10, 10, name="cosine", warmup_epochs=2, min_factor=0.25)
    assert found[60] == pytest.approx((1 + 0.25) / 2)
    assert found[-1] == pytest.approx(0.25, abs=1e-3)


@given(
    name=st.sampled_from(["constant", "step", "cosine", "poly", "one_cycle"]),
    steps=st.integers(1, 17),
    epochs=st.integers(1, 13),
    warmup=st.floats(0, 3),
)
def test_factors_stay_in_0_to_1(name: str, steps: int, epochs: int, warmup: float) -> None:
    found = factors(steps, epochs, name=name, warmup_epochs=warmup, steps=[1, 4])
    assert all(0.0 < f <= 1.0 + 1e-12 for f in found)


@pytest.mark.parametrize(("name", "after_three_half_lives"), [("inv_t", 1 / 4), ("inv_sqrt_t", 1 / 10**0.5)])
def test_half_after_the_half_life(name: str, after_three_half_lives: float) -> None:
    found = factors(5, 13, name=name, half_life_epochs=4)
    assert found[0] == 1.0
    assert found[20] == pytest.approx(0.5)
    assert found[60] == pytest.approx(after_three_half_lives)
    assert found == sorted(found, reverse=True)


def plateau(mode: Mode, **config: Any) -> Plateau:
    return Plateau.of(
        ScheduleConfig.model_validate({"name": "plateau", "factor": 0.5, "patience_epochs": 2} | config), mode
    )


def test_plateau_falls_after_epochs_without_a_new_best() -> None:
    ours = plateau("min")
    values = [3.0, 2.0, 2.5, 2.0, 1.9, 2.1, 2.2, 2.3, 2.4]
    falls = [ours.update(value, epoch) for epoch, value in enumerate(values, 1)]
    assert falls == [False, False, False, True, False, False, True, False, True]
    assert ours.factor == 0.125
    rising = plateau("max")
    assert [rising.update(value, epoch) for epoch, value in enumerate([0.1, 0.2, 0.3, 0.3, 0.2], 1)][-1]


def test_plateau_resumes_where_it_stopped() -> None:
    whole, first, second = plateau("min"), plateau("min"), plateau("min")
    values = [3.0, 3.1, 3.2, 2.9, 3.0, 3.1, 3.0]
    expected = [whole.update(value, epoch) for epoch, value in enumerate(values, 1)]
    found = [first.update(value, epoch) for epoch, value in enumerate(values[:5], 1)]
    second.load_state_dict(first.state_dict())
    found += [second.update(value, epoch) for epoch, value in enumerate(values[5:], 6)]
    assert found == expected
    assert second.factor == whole.factor == 0.25
