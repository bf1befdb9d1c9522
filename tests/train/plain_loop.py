"""A plain PyTorch training loop over a `LearningTask`, as anybody would write it: the yardstick for ours."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from lab.config.run import RunConfig
from lab.nn.learning import LearningTask
from lab.train.rng import batch_seed


def plain_optimizer(model: nn.Module, config: RunConfig) -> Optimizer:
    """PyTorch's optimizer with its defaults; no decay on vectors, as the lab's."""
    options = config.optimizer
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if options.name == "adam":
        return Adam(groups, lr=options.learning_rate, betas=(options.beta_1, options.beta_2), eps=options.eps)
    assert options.name in ("sgd", "nag"), options.name
    return SGD(groups, lr=options.learning_rate, momentum=options.momentum, nesterov=options.name == "nag")


def plain_schedule(optimizer: Optimizer, config: RunConfig, steps_per_epoch: int) -> LRScheduler | None:
    """PyTorch's one-cycle schedule, or none for a constant rate."""
    if config.schedule.name == "constant":
        return None
    assert config.schedule.name == "one_cycle", config.schedule.name
    return OneCycleLR(
        optimizer,
        max_lr=config.optimizer.learning_rate,
        total_steps=steps_per_epoch * config.train.epochs,
        pct_start=config.schedule.peak_at,
        div_factor=config.schedule.start_divisor,
        final_div_factor=config.schedule.end_divisor,
        cycle_momentum=False,
    )


def plain_loop(task: LearningTask, config: RunConfig, model: nn.Module | None = None) -> Iterator[float]:
    """Train on the CPU and yield the loss of every step. Same model, data, seed and schedule as `lab.train.fit`."""
    model = model if model is not None else task.build_model()
    torch.manual_seed(config.seed)
    loader = task.train_loader()
    steps_per_epoch = min(len(loader), config.train.limit_train_batches or len(loader))
    optimizer = plain_optimizer(model, config)
    schedule = plain_schedule(optimizer, config, steps_per_epoch)
    model.train()
    for epoch in range(config.train.epochs):
        loader.set_epoch(epoch)
        for index, raw in zip(range(steps_per_epoch), loader, strict=False):
            batch = task.on_device(raw, training=True, seed=batch_seed(config.seed, epoch, index))
            loss = task.step(model, batch)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if schedule is not None:
                schedule.step()
            yield loss.item()
