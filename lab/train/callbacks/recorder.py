"""Collects losses, scores and speed; writes them to the metrics file, the tracker and the terminal."""

from __future__ import annotations

import statistics
import time
from typing import Any

from lightning.pytorch import Callback, Trainer

from lab.config.run import RunConfig
from lab.core.errors import LabError, TrainingError
from lab.core.progress import say, warn
from lab.train.distributed import world_size
from lab.train.meters import StepLoss, num_samples
from lab.train.module import LearningModule
from lab.train.records import MetricsFile


class Recorder(Callback):  # type: ignore[misc]
    """Reads the losses from the device once per `log_every_n_steps`, never at every step.

    Args:
        file: where lines go; None in processes that do not write.
    """

    def __init__(self, config: RunConfig, file: MetricsFile | None) -> None:
        self._config = config
        self._file = file
        self.latest: dict[str, float] = {}
        self.throughputs: list[float] = []
        self._last_step = 0
        self._window_start, self._window_samples, self._window_steps = 0.0, 0, 0
        self._epoch_start = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LearningModule) -> None:
        self._last_step = trainer.global_step
        self._epoch_start = time.perf_counter()
        if self._file is not None:
            self._file.rewind(trainer.global_step)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LearningModule) -> None:
        self._epoch_start = time.perf_counter()
        self.restart_clock()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LearningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._window_samples += num_samples(batch) * world_size()
        step = int(trainer.global_step)
        if step == self._last_step:
            return
        self._last_step = step
        self._window_steps += 1
        if step % self._config.train.log_every_n_steps == 0:
            losses = self._drained(pl_module)
            self._close_window()
            rate = float(trainer.optimizers[0].param_groups[0]["lr"])
            own = [item.loss for item in losses if item.step == step]
            self.latest = {"train/loss": sum(own) / len(own), "train/lr": rate}
            self._add(step, trainer.current_epoch + 1, self.latest)

    def on_validation_start(self, trainer: Trainer, pl_module: LearningModule) -> None:
        self._drained(pl_module)
        self._close_short_window()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LearningModule) -> None:
        self._close_short_window()  # where nothing is validated
        values = {f"train/{name}": value for name, value in pl_module.train_scores().items()}
        values |= {f"validation/{name}": value for name, value in pl_module.validation_scores.items()}
        values["epoch_s"] = round(time.perf_counter() - self._epoch_start, 4)
        values["images_per_s"] = round(self.images_per_s(), 2)
        self._add(int(trainer.global_step), trainer.current_epoch + 1, values)
        self.flush()
        if self._file is not None:
            say(describe_epoch(trainer.current_epoch + 1, self._config.train.epochs, values))

    def on_exception(self, trainer: Trainer, pl_module: LearningModule, exception: BaseException) -> None:
        try:
            self.flush()
        except LabError as error:
            # The run already ends for another reason, which must be the one that is reported.
            warn(str(error))

    def flush(self) -> None:
        """Write what is buffered; before a checkpoint, so that the file reaches as far as it does."""
        if self._file is not None:
            self._file.flush()

    def restart_clock(self) -> None:
        """Begin a new measurement of speed, after time was spent on something other than training."""
        self._window_start, self._window_samples, self._window_steps = time.perf_counter(), 0, 0

    def images_per_s(self) -> float:
        """Median over windows of `log_every_n_steps` steps, without the first (warm-up) where there are several."""
        measured = self.throughputs[1:] or self.throughputs
        return statistics.median(measured) if measured else 0.0

    def _add(self, step: int, epoch: int, values: dict[str, float]) -> None:
        if self._file is not None:
            self._file.add(step, epoch, values)

    def _drained(self, module: LearningModule) -> list[StepLoss]:
        losses = module.train_loss.drain()
        for item in losses:
            if item.loss - item.loss != 0.0:
                raise _diverged(item, self._config)
        return losses

    def _close_short_window(self) -> None:
        """At an epoch's end; a window of few steps says little, but more than none at all."""
        if self._window_steps >= self._config.train.log_every_n_steps // 2 or not self.throughputs:
            self._close_window()

    def _close_window(self) -> None:
        elapsed = time.perf_counter() - self._window_start
        if self._window_samples and elapsed > 0 and self._window_start:
            self.throughputs.append(self._window_samples / elapsed)
        self.restart_clock()


def describe_epoch(epoch: int, epochs: int, values: dict[str, float]) -> str:
    """One line for people: "epoch 3/30  train loss 0.41 ... | validation loss 0.38 ... | 12.3 s, 5400 images/s"."""
    parts: dict[str, list[str]] = {"train": [], "validation": []}
    for key, value in values.items():
        side, _, name = key.partition("/")
        if side in parts:
            parts[side].append(f"{'loss' if name == 'epoch_loss' else name} {value:.4g}")
    sides = [f"{side} {', '.join(items)}" for side, items in parts.items() if items]
    rate = values["images_per_s"]
    speed = f"{values['epoch_s']:.1f} s, {rate:.{0 if rate >= 10 else 2}f} images/s"
    return f"epoch {epoch}/{epochs}  " + " | ".join([*sides, speed])


def _diverged(item: StepLoss, config: RunConfig) -> TrainingError:
    low = " and precision: bfloat16 instead of float16" if config.train.precision == "float16" else ""
    return TrainingError(
        f"training diverged: the loss at step {item.step} is {item.loss}",
        got=f"optimizer {config.optimizer.name}, learning_rate {config.optimizer.learning_rate}",
        expected="a finite loss",
        hint=f"a smaller optimizer.learning_rate, schedule.warmup_epochs, train.gradient_clip_norm: 1.0{low}; "
        "the run's last checkpoint is untouched",
    )
