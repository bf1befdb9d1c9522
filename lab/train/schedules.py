"""Learning rate as a pure function of the optimizer step, but for plateau, which follows the validation metric."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lab.config.run import ScheduleConfig
from lab.train.early_stopping import Best, Mode


def learning_rate(step: int, base: float, config: ScheduleConfig, steps_per_epoch: int, epochs: int) -> float:
    """The learning rate at optimizer step `step` (from 0), where `base` is the configured rate.

    All but one_cycle begin with a linear warm-up that reaches `base` at the last step of `warmup_epochs`. Over the
    steps after it cosine decays as in SGDR (Loshchilov and Hutter 2017, eq. 5, one cycle), poly as
    (1 - progress) ** power (DeepLab, Chen et al. 2018, section 4.1; PyTorch's PolynomialLR), inv_t as 1 / (1 + t) and
    inv_sqrt_t as 1 / sqrt(1 + 3 t), t in half-lives (Sockeye); plateau stays, see `Plateau`. one_cycle is
    `torch.optim.lr_scheduler.OneCycleLR` with cosine annealing and two phases; momentum is not cycled.
    """
    total = steps_per_epoch * epochs
    if config.name == "one_cycle":
        return _one_cycle(step, base, config, total)
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return base * (step + 1) / warmup
    if config.name == "step":
        passed = sum(step >= epoch * steps_per_epoch for epoch in config.steps)
        return float(base * config.factor**passed)
    if config.name == "cosine":
        return _anneal(base, base * config.min_factor, (step - warmup) / max(1, total - warmup))
    if config.name == "poly":
        left = 1.0 - min(1.0, (step - warmup) / max(1, total - warmup))
        return float(base * (config.min_factor + (1.0 - config.min_factor) * left**config.power))
    if config.name in ("inv_t", "inv_sqrt_t"):
        half_lives = (step - warmup) / (config.half_life_epochs * steps_per_epoch)
        return base / (1.0 + half_lives) if config.name == "inv_t" else base / math.sqrt(1.0 + 3.0 * half_lives)
    return base


@dataclass
class Plateau:
    """Schedule plateau: what the rate is multiplied by, lower each time the metric has not improved for `patience`."""

    config: ScheduleConfig
    best: Best
    num_waiting: int = 0
    num_reductions: int = 0

    @classmethod
    def of(cls, config: ScheduleConfig, mode: Mode) -> Plateau:
        return cls(config, Best(mode))

    @property
    def factor(self) -> float:
        return float(self.config.factor**self.num_reductions)

    def update(self, value: float, epoch: int) -> bool:
        """Take the value of one more epoch (from 1); whether the rate falls."""
        self.num_waiting = 0 if self.best.update(value, epoch) else self.num_waiting + 1
        falls = self.num_waiting >= self.config.patience_epochs
        if falls:
            self.num_waiting, self.num_reductions = 0, self.num_reductions + 1
        return falls

    def state_dict(self) -> dict[str, Any]:
        counts = {"num_waiting": self.num_waiting, "num_reductions": self.num_reductions}
        return {"best": self.best.state_dict()} | counts

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best.load_state_dict(state["best"])
        self.num_waiting, self.num_reductions = int(state["num_waiting"]), int(state["num_reductions"])


def learning_rate_factor(step: int, config: ScheduleConfig, steps_per_epoch: int, epochs: int) -> float:
    """What the configured learning rate is multiplied by at optimizer step `step` (from 0)."""
    return learning_rate(step, 1.0, config, steps_per_epoch, epochs)


def _one_cycle(step: int, base: float, config: ScheduleConfig, total: int) -> float:
    # The order of operations is PyTorch's, so that rates are bit-equal: training amplifies the smallest difference.
    start = base / config.start_divisor
    peak = config.peak_at * total - 1
    if step < peak:
        return _anneal(start, base, step / peak)
    return _anneal(base, start / config.end_divisor, (step - peak) / max(1e-9, total - 1 - peak))


def _anneal(begin: float, end: float, progress: float) -> float:
    """From `begin` to `end` along half a cosine; `progress` in 0..1."""
    return end + (begin - end) / 2.0 * (1.0 + math.cos(math.pi * min(1.0, progress)))
