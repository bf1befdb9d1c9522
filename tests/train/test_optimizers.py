"""Optimizers by name, their constants, and who decays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lab.config.run import OptimizerConfig
from lab.core.errors import ConfigError
from lab.train.optimizers import build_optimizer, parameter_groups


def model() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(5, 2))


def config(**values: Any) -> OptimizerConfig:
    return OptimizerConfig.model_validate(values)


def test_norms_and_biases_do_not_decay() -> None:
    net = model()
    decayed, plain = parameter_groups(net, config(weight_decay=0.07))
    assert [p.shape for p in decayed["params"]] == [(5, 3, 3, 3), (2, 5)]
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.07, 0.0)
    assert len(plain["params"]) == 3


def test_decay_norm_and_bias_puts_all_in_one_group() -> None:
    [group] = parameter_groups(model(), config(decay_norm_and_bias=True, weight_decay=0.07))
    assert len(group["params"]) == 5
    assert group["weight_decay"] == 0.07


def test_frozen_parameters_are_left_out() -> None:
    net = model()
    net[0].requires_grad_(False)
    assert sum(len(group["params"]) for group in parameter_groups(net, config())) == 4


def test_nothing_to_train_is_an_error() -> None:
    with pytest.raises(ConfigError, match="every parameter of the model is frozen"):
        parameter_groups(model().requires_grad_(False), config())


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ({"name": "sgd", "momentum": 0.7}, torch.optim.SGD, {"momentum": 0.7, "nesterov": False}),
        ({"name": "nag", "momentum": 0.7}, torch.optim.SGD, {"momentum": 0.7, "nesterov": True}),
        ({"name": "nag", "momentum": 0.0}, torch.optim.SGD, {"momentum": 0.0, "nesterov": False}),
        ({"name": "adam", "beta_1": 0.8, "eps": 1e-6}, torch.optim.Adam, {"betas": (0.8, 0.999), "eps": 1e-6}),
        ({"name": "adamw", "beta_2": 0.9}, torch.optim.AdamW, {"betas": (0.9, 0.9)}),
        ({"name": "rmsprop", "gamma": 0.6, "eps": 1e-3}, torch.optim.RMSprop, {"alpha": 0.6, "eps": 1e-3}),
        ({"name": "rmsprop", "rmsprop_momentum": 0.4}, torch.optim.RMSprop, {"momentum": 0.4}),
        ({"name": "adadelta", "gamma": 0.8}, torch.optim.Adadelta, {"rho": 0.8}),
        ({"name": "adagrad", "eps": 1e-3}, torch.optim.Adagrad, {"eps": 1e-3}),
    ],
)
def test_names_and_constants(values: dict[str, Any], kind: type, expected: dict[str, Any]) -> None:
    optimizer = build_optimizer(model(), config(learning_rate=0.3, **values))
    assert type(optimizer) is kind
    for group in optimizer.param_groups:
        assert {key: group[key] for key in expected} == expected
        assert group["lr"] == 0.3


DEFAULTS = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9),
    "nag": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda groups: torch.optim.Adam(groups, lr=0.05),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.05),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr=0.05, alpha=0.9),
}


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("fused", [False, True])
def test_updates_are_those_of_pytorchs_default(name: str, fused: bool) -> None:
    ours, theirs = model(), model()
    options = config(name=name, learning_rate=0.05, weight_decay=0.01)
    pairs = [
        (ours, build_optimizer(ours, options, fused=fused)),
        (theirs, DEFAULTS[name](parameter_groups(theirs, options))),
    ]
    x = torch.randn(7, 3, 3, 3, generator=torch.Generator().manual_seed(5))
    for net, optimizer in pairs:
        for _ in range(4):
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        if fused:
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(one, other)
