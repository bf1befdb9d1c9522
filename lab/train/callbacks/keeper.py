"""Keeps the best weights and numbered copies, and ends training early when the metric no longer improves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from torch import nn

from lab.artifacts.files import atomic_dir
from lab.artifacts.rundir import RunDir
from lab.config.run import RunConfig
from lab.core.errors import ConfigError
from lab.core.progress import say
from lab.core.tables import nearest
from lab.train.distributed import is_leader
from lab.train.early_stopping import Best, EarlyStopping
from lab.train.ema import WeightAverage
from lab.train.module import LearningModule
from lab.train.weights import write_tensors

WEIGHTS = "model.safetensors"


class Keeper(Callback):  # type: ignore[misc]
    """Judges each epoch by the task's monitored validation metric; writes the averaged weights where there are any."""

    def __init__(self, config: RunConfig, run: RunDir, average: WeightAverage | None, monitor: str, mode: Any) -> None:
        self._config = config
        self._run = run
        self._average = average
        self._monitor = monitor
        self.best = Best(mode)
        self.best_scores: dict[str, float] = {}
        self.num_epochs = 0
        self.stopped_early = False
        self._stopping = EarlyStopping(config.early_stopping, mode)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LearningModule) -> None:
        scores = pl_module.validation_scores
        if self._monitor not in scores:
            raise ConfigError(
                f"the monitored metric '{self._monitor}' is not among the validation metrics",
                expected=", ".join(scores),
                hint=f"did you mean '{nearest(self._monitor, scores)}'?",
            )
        self.num_epochs, value = trainer.current_epoch + 1, scores[self._monitor]
        if self.best.update(value, self.num_epochs):
            self.best_scores = dict(scores)
            self._write(pl_module.model, self._run.best, value)
        every = self._config.checkpoint.every_n_epochs
        if every and self.num_epochs % every == 0:
            self._write(pl_module.model, self._run.best.with_name(f"epoch-{self.num_epochs:04d}"), value)
        if self._stopping.should_stop(value, self.num_epochs):
            self.stopped_early = trainer.should_stop = True
            if is_leader():
                say(f"early stopping: {self._monitor} did not improve for {self._stopping.num_waiting} epochs")

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LearningModule, checkpoint: Mapping[str, Any]) -> None:
        state = checkpoint["callbacks"][self.state_key]
        trainer.should_stop = bool(state["stopped_early"])

    def state_dict(self) -> dict[str, Any]:
        return {
            "best": self.best.state_dict(),
            "best_scores": self.best_scores,
            "stopping": self._stopping.state_dict(),
            "num_epochs": self.num_epochs,
            "stopped_early": self.stopped_early,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.best.load_state_dict(state_dict["best"])
        self.best_scores = dict(state_dict["best_scores"])
        self._stopping.load_state_dict(state_dict["stopping"])
        self.num_epochs, self.stopped_early = state_dict["num_epochs"], state_dict["stopped_early"]

    def _write(self, model: nn.Module, folder: Path, value: float) -> None:
        if not is_leader():
            return
        is_average = self._average is not None
        facts = {"epoch": self.num_epochs, "monitor": self._monitor, "value": value, "is_average": is_average}
        with atomic_dir(folder) as temporary:
            if self._average is None:
                write_tensors(model.state_dict(), temporary / WEIGHTS)
            else:
                with self._average.applied():
                    write_tensors(model.state_dict(), temporary / WEIGHTS)
            (temporary / "facts.json").write_text(json.dumps(facts) + "\n", encoding="utf-8")
