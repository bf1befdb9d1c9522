"""Learning rate as a pure function of the optimizer step: nothing to save, nothing to restore."""

from __future__ import annotations

import math

from lab.config.run import ScheduleConfig


def learning_rate(step: int, base: float, config: ScheduleConfig, steps_per_epoch: int, epochs: int) -> float:
    """The learning rate at optimizer step `step` (from 0), where `base` is the configured rate.

    All but one_cycle begin with a linear warm-up that reaches `base` at the last step of `warmup_epochs`. Over the
    steps after it cosine decays as in SGDR (Loshchilov and Hutter 2017, eq. 5, one cycle), poly as
    (1 - progress) ** power (DeepLab, Chen et al. 2018, section 4.1; PyTorch's PolynomialLR). one_cycle is
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
    return base


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
