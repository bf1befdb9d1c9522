"""Writes the training state every so many steps, after every epoch, and when the run is asked to stop."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lab.config.run import RunConfig
from lab.core.progress import say
from lab.train.callbacks.recorder import Recorder
from lab.train.distributed import all_sum, world_size

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequestedError(Exception):
    """The state was saved because a signal asked the run to end; control flow inside `fit`, not an error."""


class StopRequest:
    """Remembers the first SIGINT or SIGTERM; a second one interrupts at once."""

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._process = os.getpid()

    def install(self) -> None:
        """Take over the signals; only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._handle)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """The handlers from before come back at the end, whoever replaced them inside."""
        before = {number: signal.getsignal(number) for number in SIGNALS}
        try:
            yield
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a loader's worker, forked with this handler: its parent decides
        if self.signal_name is not None:
            raise KeyboardInterrupt
        self.signal_name = signal.Signals(number).name
        say(f"{self.signal_name}: saving a checkpoint after this step, then stopping (once more: stop at once)")


class Checkpointer(Callback):  # type: ignore[misc]
    """Saves between two optimizer steps only; the end of an epoch is saved once, after validation."""

    def __init__(self, config: RunConfig, path: Path, recorder: Recorder, stop: StopRequest) -> None:
        self._config = config
        self._path = path
        self._recorder = recorder
        self._stop = stop
        self._last_step = 0
        self.duration_s = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last_step = trainer.global_step
        # Lightning has registered its own handlers by now, which would end the run without a checkpoint.
        self._stop.install()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, has_stepped = trainer.global_step, trainer.global_step != self._last_step
        self._last_step = step
        if not has_stepped or batch_idx + 1 == trainer.num_training_batches:
            return  # gradients are still being accumulated, or the end of the epoch saves
        stopping = self._must_stop(pl_module, step)
        every = self._config.checkpoint.every_n_steps
        if stopping or (every and step % every == 0):
            self._save(trainer)
        if stopping:
            raise StopRequestedError

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)
        is_over = trainer.should_stop or trainer.current_epoch + 1 == self._config.train.epochs
        if self._must_stop(pl_module, 0) and not is_over:
            raise StopRequestedError

    def _save(self, trainer: Trainer) -> None:
        start = time.perf_counter()
        self._recorder.flush()
        trainer.save_checkpoint(str(self._path))
        self.duration_s += time.perf_counter() - start
        self._recorder.restart_clock()

    def _must_stop(self, module: LightningModule, step: int) -> bool:
        requested = self._stop.signal_name is not None
        if world_size() == 1:
            return requested
        # Processes hear a signal at different steps and must stop at the same one; asking costs a synchronisation.
        if step % self._config.train.log_every_n_steps:
            return False
        return bool(all_sum(torch.tensor(float(requested), device=module.device)).item())
