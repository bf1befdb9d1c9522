"""The one adapter between a `LearningTask` and Lightning's Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn, optim

from lab.config.run import RunConfig
from lab.core.errors import DataError
from lab.nn.learning import LearningTask
from lab.train.device import Device
from lab.train.distributed import broadcast_buffers, gather_objects, rank, world_size
from lab.train.loaders import EvalBatches, TrainBatches
from lab.train.meters import LossMeter, load_metric_states, metric_states, num_samples, scores
from lab.train.optimizers import build_optimizer
from lab.train.rng import batch_seed, rng_state, seed_everything, set_rng_state


class LearningModule(LightningModule):  # type: ignore[misc]
    """Runs a task's steps; keeps the losses, the metrics and the random states of the epoch in progress.

    Nothing goes through Lightning's own logging: it would read a value from the device at every step.
    """

    # With fewer validation batches than processes, some evaluate nothing.
    allow_zero_length_dataloader_with_multiple_devices = True

    def __init__(self, task: LearningTask, model: nn.Module, config: RunConfig, device: Device) -> None:
        super().__init__()
        self.task, self.config, self.processor = task, config, device
        self.model = model.to(memory_format=torch.channels_last) if config.train.channels_last else model
        if config.train.torch_compile:
            # In place: a wrapper would put its own prefix before every saved name.
            self.model.compile()
        self.train_metrics, self.validation_metrics = task.train_metrics(), task.metrics()
        self.train_loss, self.validation_loss = LossMeter(), LossMeter()
        self.validation_scores: dict[str, float] = {}
        self._rng: list[Any] = []

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the name of the current hook some 60 times a step; nn.Module would search its registries.
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def configure_optimizers(self) -> optim.Optimizer:
        # A fused kernel unscales float16's gradients itself; clipping needs them unscaled before.
        scaled_and_clipped = self.processor.precision == "float16" and self.config.train.gradient_clip_norm is not None
        fused = self.processor.accelerator == "gpu" and not scaled_and_clipped
        return build_optimizer(self.model, self.config.optimizer, fused=fused)

    def train_dataloader(self) -> TrainBatches:
        loader = self.task.train_loader(rank(), world_size())
        if len(loader) == 0:
            raise DataError(
                "the training split has no whole batch",
                got=f"train.batch_size {self.config.train.batch_size}, {world_size()} processes",
                hint="lower train.batch_size or check the data set",
            )
        return TrainBatches(loader, lambda: int(self.current_epoch))

    def val_dataloader(self) -> EvalBatches:
        return EvalBatches(self.task.eval_loader("validation"), rank(), world_size())

    def on_train_start(self) -> None:
        """Last moment before the first batch: set-up may have drawn random numbers, training must not notice."""
        if rank() < len(self._rng):
            set_rng_state(self._rng[rank()])
        else:
            seed_everything(self.config.seed, rank())
        self._rng = []

    def on_train_epoch_start(self) -> None:
        """Not called when an epoch is resumed in its middle, so what was restored stays."""
        self.train_metrics.reset()
        self.train_loss.reset()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        seed = batch_seed(self.config.seed, self.current_epoch, batch_idx, rank())
        batch = self._prepared(batch, training=True, seed=seed)
        outputs = self.task.step(self.model, batch)
        self.train_loss.add(outputs["loss"], num_samples(batch), self.global_step + 1)
        if len(self.train_metrics):
            with torch.no_grad():
                self.task.update_metrics(self.train_metrics, _detached(outputs), batch)
        return outputs["loss"]

    def on_validation_epoch_start(self) -> None:
        broadcast_buffers(self.model)
        self.validation_metrics.reset()
        self.validation_loss.reset()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        batch = self._prepared(batch, training=False, seed=0)
        outputs = self.task.step(self.model, batch)
        self.validation_loss.add(outputs["loss"], num_samples(batch))
        self.task.update_metrics(self.validation_metrics, outputs, batch)

    def on_validation_epoch_end(self) -> None:
        self.validation_scores = {"loss": self.validation_loss.mean(self.device)} | scores(self.validation_metrics)

    def train_scores(self) -> dict[str, float]:
        """Mean loss and metrics of the epoch so far; every process must call."""
        return {"epoch_loss": self.train_loss.mean(self.device)} | scores(self.train_metrics)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["lab"] = {
            "config": self.config.model_dump(mode="json"),
            "num_threads": self.processor.num_threads,
            "world_size": world_size(),
            "rng": gather_objects(rng_state()),
            "train_loss": self.train_loss.state_dict(self.device),
            "train_metrics": metric_states(self.train_metrics),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["lab"]
        self._rng = state["rng"]
        if rank() == 0:
            self.train_loss.load_state_dict(state["train_loss"])
        load_metric_states(self.train_metrics, state["train_metrics"])

    def _prepared(self, batch: Any, *, training: bool, seed: int) -> Any:
        if self.processor.precision == "float32":
            batch = self.task.on_device(batch, training=training, seed=seed)
        else:
            # Augmentation and normalisation are not what autocast is for: 8 bits of mantissa shift colours.
            with torch.autocast(self.device.type, enabled=False):
                batch = self.task.on_device(batch, training=training, seed=seed)
        return _channels_last(batch) if self.config.train.channels_last else batch


def _detached(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in outputs.items()}


def _channels_last(batch: Any) -> Any:
    """The batch with every four-dimensional tensor stored as NHWC."""
    if isinstance(batch, Tensor):
        return batch.contiguous(memory_format=torch.channels_last) if batch.ndim == 4 else batch
    if isinstance(batch, Mapping):
        return type(batch)((key, _channels_last(value)) for key, value in batch.items())  # type: ignore[call-arg]
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*map(_channels_last, batch))
    if isinstance(batch, list | tuple):
        return type(batch)(map(_channels_last, batch))
    return batch
