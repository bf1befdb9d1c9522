"""Losses and metric states of an epoch in progress: collected without waiting for the device, kept by checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from lab.core.errors import ConfigError
from lab.train.distributed import all_sum, is_leader, world_size


class StepLoss(NamedTuple):
    """The loss of one batch, and the optimizer step (from 1) it belongs to."""

    loss: float
    step: int


class LossMeter:
    """Mean loss over samples. Values stay on the device until `drain` reads all of them at once."""

    def __init__(self) -> None:
        self.total = 0.0
        self.num_samples = 0
        self._pending: list[tuple[Tensor, int, int]] = []

    def add(self, loss: Tensor, num_samples: int, step: int = 0) -> None:
        """Take the scalar loss of one batch."""
        self._pending.append((loss.detach(), num_samples, step))

    def drain(self) -> list[StepLoss]:
        """Read what was added since the last call; waits for the device once."""
        if not self._pending:
            return []
        losses = torch.stack([loss.float() for loss, _, _ in self._pending]).tolist()
        drained = [StepLoss(loss, step) for loss, (_, _, step) in zip(losses, self._pending, strict=True)]
        self.total += sum(loss * count for loss, (_, count, _) in zip(losses, self._pending, strict=True))
        self.num_samples += sum(count for _, count, _ in self._pending)
        self._pending.clear()
        return drained

    def mean(self, device: torch.device) -> float:
        """The mean over all processes; every one of them must call. NaN when nothing was added."""
        state = self.state_dict(device)
        return float(state["total"] / state["num_samples"]) if state["num_samples"] else float("nan")

    def reset(self) -> None:
        self._pending.clear()
        self.total, self.num_samples = 0.0, 0

    def state_dict(self, device: torch.device) -> dict[str, Any]:
        """Sums over all processes; every one of them must call, and the first one alone takes them back."""
        self.drain()
        sums = torch.tensor([self.total, self.num_samples], dtype=torch.float64, device=device)
        total, count = all_sum(sums).tolist()
        return {"total": total, "num_samples": int(count)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.total, self.num_samples = float(state["total"]), int(state["num_samples"])


def num_samples(batch: Any) -> int:
    """Samples in a batch: the first dimension of its first tensor."""
    if isinstance(batch, Tensor):
        return int(batch.shape[0]) if batch.ndim else 1
    items = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    return next((count for count in map(num_samples, items) if count), 0)


def scores(metrics: MetricCollection) -> dict[str, float]:
    """Values of all scalar metrics, over all processes (torchmetrics gathers them).

    Raises:
        ConfigError: a metric is not a number, so that it can be neither logged nor compared.
    """
    values = metrics.compute() if len(metrics) else {}
    for name, value in values.items():
        if value.numel() != 1:
            raise ConfigError(
                f"the metric '{name}' cannot be tracked", got=f"shape {list(value.shape)}", expected="a scalar"
            )
    return {name: float(value) for name, value in values.items()}


def metric_states(metrics: MetricCollection) -> dict[str, Any]:
    """States of all metrics, summed over processes by each metric's own rule; every process must call."""
    return {name: _metric_state(metric) for name, metric in metrics.items(keep_base=True, copy_state=False)}


def load_metric_states(metrics: MetricCollection, states: Mapping[str, Any]) -> None:
    """Put states back, in process 0 alone: `metric_states` has already merged those of all."""
    if not is_leader():
        return
    for name, metric in metrics.items(keep_base=True, copy_state=False):
        for key, value in states[name]["state"].items():
            setattr(metric, key, value)
        metric._update_count = states[name]["num_updates"]
        metric._computed = None


def _metric_state(metric: Metric) -> dict[str, Any]:
    if world_size() > 1:
        metric.sync()
    state = {key: _copy(getattr(metric, key)) for key in metric._defaults}
    if world_size() > 1:
        metric.unsync()
    return {"state": state, "num_updates": metric._update_count}


def _copy(value: Any) -> Any:
    return [item.clone() for item in value] if isinstance(value, list) else value.clone()
