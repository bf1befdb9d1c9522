"""The progress bar of a terminal."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from lab.train.callbacks.recorder import Recorder


class Bar(RichProgressBar):  # type: ignore[misc]
    """Lightning's bar on standard error, with the values the recorder read last: it never waits for the device."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(refresh_rate=5, leave=False, console_kwargs={"stderr": True})
        self._recorder = recorder

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        return {name.removeprefix("train/"): f"{value:.4g}" for name, value in self._recorder.latest.items()}

    def _get_train_description(self, current_epoch: int) -> str:
        return f"epoch {current_epoch + 1}/{self.trainer.max_epochs}"  # from 1, as everywhere else
