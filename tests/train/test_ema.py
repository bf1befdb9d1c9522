"""The average of the weights against its formula."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lab.train.ema import WeightAverage


def test_average_follows_the_formula_and_leaves_buffers_alone() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))
    average = WeightAverage(model, decay=0.25)
    expected = model[0].weight.detach().clone()
    for number in range(1, 6):
        with torch.no_grad():
            model[0].weight.add_(torch.randn(5, 3))
            model[1].running_mean.fill_(number)
        decay = min(0.25, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * model[0].weight.detach()
        average.update()
    own = model[0].weight.detach().clone()
    with average.applied():
        torch.testing.assert_close(model[0].weight, expected)
        assert model[1].running_mean.tolist() == [5.0] * 5
    assert torch.equal(model[0].weight, own)


def test_swap_is_undone_after_an_error() -> None:
    model = nn.Linear(2, 3)
    average = WeightAverage(model, 0.9)
    with torch.no_grad():
        model.weight.fill_(7.0)
    seen = []

    def fail() -> None:
        with average.applied():
            seen.append(model.weight.detach().clone())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not torch.equal(seen[0], torch.full((3, 2), 7.0))
    assert torch.equal(model.weight, torch.full((3, 2), 7.0))


def test_frozen_parameters_are_not_averaged() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 5))
    model[0].requires_grad_(False)
    state = WeightAverage(model, 0.9).state_dict()
    assert set(state["average"]) == {"1.weight", "1.bias"}


def test_state_goes_on_exactly() -> None:
    torch.manual_seed(2)
    model = nn.Linear(3, 5)
    whole = WeightAverage(model, 0.9)
    whole.update()
    resumed = WeightAverage(nn.Linear(3, 5), 0.9)
    resumed.load_state_dict(whole.state_dict())
    resumed._live = dict(model.named_parameters())
    with torch.no_grad():
        model.weight.mul_(3.0)
    whole.update()
    resumed.update()
    assert all(torch.equal(a, b) for a, b in zip(whole._average.values(), resumed._average.values(), strict=True))
