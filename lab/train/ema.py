"""Exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """The average of a model's trainable parameters over training steps; buffers are the model's own, current ones.

    The decay grows with the number of steps as min(decay, (1 + n) / (10 + n)), so that the random initial weights
    are soon forgotten in short runs too (Abadi et al., `tf.train.ExponentialMovingAverage`, `num_updates`).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self._live = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._average = {name: p.detach().clone() for name, p in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's current parameters into the average."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        torch._foreach_lerp_(list(self._average.values()), self._parameters(), 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the average inside, and its own parameters again after."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the average and the model's parameters; a second call undoes the first."""
        own = [parameter.clone() for parameter in self._parameters()]
        torch._foreach_copy_(self._parameters(), list(self._average.values()))
        torch._foreach_copy_(list(self._average.values()), own)

    def to(self, device: torch.device) -> None:
        """Move the average to where the model trains."""
        self._average = {name: tensor.to(device) for name, tensor in self._average.items()}

    def state_dict(self) -> dict[str, object]:
        return {"num_updates": self.num_updates, "average": dict(self._average)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, object]) -> None:
        average = state["average"]
        assert isinstance(average, Mapping)
        self.num_updates = int(str(state["num_updates"]))
        for name, tensor in self._average.items():
            tensor.copy_(average[name])

    def _parameters(self) -> list[Tensor]:
        return [parameter.detach() for parameter in self._live.values()]
