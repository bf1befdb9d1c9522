"""Keeps the exponential moving average of the weights and puts it in place while the model is validated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lab.train.ema import WeightAverage


class Averaging(Callback):  # type: ignore[misc]
    """Updates `average` after each optimizer step."""

    def __init__(self, average: WeightAverage) -> None:
        self._average = average
        self._last_step = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._average.to(pl_module.device)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step != self._last_step:
            self._last_step = trainer.global_step
            self._average.update()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._average.swap()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._average.swap()

    def state_dict(self) -> dict[str, Any]:
        return self._average.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self._average.load_state_dict(state_dict)
