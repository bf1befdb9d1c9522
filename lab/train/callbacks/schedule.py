"""Sets the learning rate before every optimizer step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, Trainer

from lab.config.run import RunConfig
from lab.core.progress import say
from lab.train.distributed import is_leader
from lab.train.early_stopping import Mode
from lab.train.module import LearningModule
from lab.train.schedules import Plateau, learning_rate


class Schedule(Callback):  # type: ignore[misc]
    """The rate depends on the number of the step alone, so that a resumed run needs no state; plateau keeps its own."""

    def __init__(self, config: RunConfig, monitor: str, mode: Mode) -> None:
        self._config = config
        self._monitor = monitor
        self._plateau = Plateau.of(config.schedule, mode) if config.schedule.name == "plateau" else None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LearningModule, batch: Any, batch_idx: int) -> None:
        train = self._config.train
        steps_per_epoch = -(-int(trainer.num_training_batches) // train.accumulate_batches)
        base, schedule = self._config.optimizer.learning_rate, self._config.schedule
        rate = learning_rate(trainer.global_step, base, schedule, steps_per_epoch, train.epochs)
        if self._plateau is not None:
            rate *= self._plateau.factor
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = rate

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LearningModule) -> None:
        value = pl_module.validation_scores.get(self._monitor)
        if self._plateau is None or value is None:  # an unknown metric is the Keeper's error to raise
            return
        if self._plateau.update(value, trainer.current_epoch + 1) and is_leader():
            patience = self._config.schedule.patience_epochs
            say(f"{self._monitor} did not improve for {patience} epochs: rate times {self._plateau.factor:.3g}")

    def state_dict(self) -> dict[str, Any]:
        return {} if self._plateau is None else self._plateau.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        if self._plateau is not None:
            self._plateau.load_state_dict(state_dict)
