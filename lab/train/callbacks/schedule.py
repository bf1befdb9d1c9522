"""Sets the learning rate before every optimizer step."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lab.config.run import RunConfig
from lab.train.schedules import learning_rate


class Schedule(Callback):  # type: ignore[misc]
    """The rate depends on the number of the step alone, so a resumed run needs no schedule state."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        train = self._config.train
        steps_per_epoch = -(-int(trainer.num_training_batches) // train.accumulate_batches)
        base, schedule = self._config.optimizer.learning_rate, self._config.schedule
        rate = learning_rate(trainer.global_step, base, schedule, steps_per_epoch, train.epochs)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = rate
