"""`fit`: task + configuration -> trained weights, checkpoints and metrics in a run's folder."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from lab.artifacts.files import atomic_path, write_json
from lab.artifacts.rundir import RunDir
from lab.config.run import RunConfig
from lab.core.interfaces import RunStatus, Tracker
from lab.core.progress import is_quiet, say
from lab.nn.learning import LearningTask
from lab.train.callbacks.average import Averaging
from lab.train.callbacks.bar import Bar
from lab.train.callbacks.checkpointer import Checkpointer, StopRequest, StopRequestedError
from lab.train.callbacks.keeper import WEIGHTS, Keeper
from lab.train.callbacks.recorder import Recorder
from lab.train.callbacks.schedule import Schedule
from lab.train.checkpoint_io import FolderCheckpointIO
from lab.train.device import Device, choose_device, processor_settings
from lab.train.distributed import is_leader, world_size
from lab.train.ema import WeightAverage
from lab.train.initial import initial_model
from lab.train.module import LearningModule
from lab.train.quiet import NoProfiler, quiet_lightning
from lab.train.records import MetricsFile, epoch_lines
from lab.train.resume import StartPoint, find_start, finished_path


@dataclass(frozen=True)
class FitResult:
    """What came out of a training run.

    `metrics` are the validation metrics of the best epoch ("validation/accuracy"), whose weights are `run.weights`;
    `history` has the line of every epoch; `images_per_s` is the median over windows of steps after warm-up, over all
    processes. With status "killed" the state is saved and there are no final weights yet.
    """

    status: RunStatus
    monitor: str
    best_metric: float | None
    best_epoch: int
    metrics: dict[str, float]
    num_epochs: int
    stopped_early: bool
    images_per_s: float
    durations_s: dict[str, float]
    device: str
    precision: str
    resumed_from_step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class _Session:
    """The parts of one call of `fit`."""

    task: LearningTask
    config: RunConfig
    run: RunDir
    device: Device
    start: StartPoint
    module: LearningModule
    recorder: Recorder
    keeper: Keeper
    checkpointer: Checkpointer
    stop: StopRequest
    callbacks: list[Callback]


def fit(task: LearningTask, config: RunConfig, run: RunDir, tracker: Tracker, *, resume: bool = False) -> FitResult:
    """Train, validating after each epoch; write `run.weights`, `run.best`, `run.checkpoint` and `run.metrics`.

    SIGINT and SIGTERM save a checkpoint after the current step and return with status "killed". Under torchrun every
    process calls this, and the first one alone writes and tracks.

    Args:
        resume: go on from `run.checkpoint`, also in the middle of an epoch. On a CPU with the same number of threads
            the result is bit-equal to that of an uninterrupted run.

    Raises:
        MissingToolError: a GPU was asked for and there is none.
        ArtifactError: the checkpoint belongs to another configuration.
        TrainingError: the loss is no longer finite.
        StorageError: writing failed; the previous checkpoint is untouched.
        DataError: the training split has no whole batch.
    """
    device = choose_device(config.train)
    if is_leader():
        run.path.mkdir(parents=True, exist_ok=True)
        say(f"training on {device} ({device.why})")
    start = find_start(run, config, device) if resume else StartPoint()
    if start.finished is not None:
        return FitResult(**start.finished, history=epoch_lines(run.metrics))
    if not resume:
        finished_path(run).unlink(missing_ok=True)
    with processor_settings(device, config.train), quiet_lightning(), _own_process_group():
        session = _prepare(task, config, run, tracker, device, start)
        return _train(session)


def _prepare(
    task: LearningTask, config: RunConfig, run: RunDir, tracker: Tracker, device: Device, start: StartPoint
) -> _Session:
    file = MetricsFile(run.metrics, tracker) if is_leader() else None
    # A checkpoint replaces all weights, so that a resumed run does not look for those it once started from.
    model = task.build_model(pretrained=False) if start.checkpoint else initial_model(task, config)
    module = LearningModule(task, model, config, device)
    average = WeightAverage(module.model, config.train.ema_decay) if config.train.ema_decay else None
    recorder, stop = Recorder(config, file), StopRequest()
    keeper = Keeper(config, run, average, task.monitor, task.monitor_mode)
    checkpointer = Checkpointer(config, run.checkpoint, recorder, stop)
    # The order matters: weights are averaged and values recorded before they are judged, all before they are saved.
    averaging = [Averaging(average)] if average else []
    callbacks: list[Callback] = [
        Schedule(config, task.monitor, task.monitor_mode),
        *averaging,
        recorder,
        keeper,
        checkpointer,
    ]
    if is_leader() and sys.stderr.isatty() and not is_quiet():
        callbacks.append(Bar(recorder))
    return _Session(task, config, run, device, start, module, recorder, keeper, checkpointer, stop, callbacks)


def _trainer(session: _Session) -> Trainer:
    train, device = session.config.train, session.device
    return Trainer(
        accelerator=device.accelerator,
        devices=device.devices,
        num_nodes=device.num_nodes,
        strategy="ddp" if world_size() > 1 else "auto",
        precision=device.lightning_precision,
        max_epochs=train.epochs,
        limit_train_batches=train.limit_train_batches or 1.0,
        accumulate_grad_batches=train.accumulate_batches,
        gradient_clip_val=train.gradient_clip_norm,
        sync_batchnorm=train.sync_batch_norm and world_size() > 1 and device.accelerator == "gpu",
        callbacks=session.callbacks,
        plugins=[FolderCheckpointIO()],
        enable_progress_bar=any(isinstance(callback, Bar) for callback in session.callbacks),
        enable_checkpointing=False,
        enable_model_summary=False,
        logger=False,
        profiler=NoProfiler(),
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        default_root_dir=str(session.run.path),
    )


def _train(session: _Session) -> FitResult:
    began = time.perf_counter()
    trainer = _trainer(session)
    # Lightning would exchange a stop flag and wait for it at every step; `Checkpointer` does so at logged steps.
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
    status: RunStatus = "finished"
    with session.stop.restored():
        try:
            trainer.fit(session.module, ckpt_path=str(session.start.checkpoint) if session.start.checkpoint else None)
        except StopRequestedError:
            status = "killed"
        except SystemExit as error:
            # How Lightning ends after a KeyboardInterrupt, which here is the second signal.
            raise KeyboardInterrupt from error
    result = _result(session, status, time.perf_counter() - began)
    if is_leader():
        _finish(session, result)
    return result


def _result(session: _Session, status: RunStatus, elapsed_s: float) -> FitResult:
    keeper, device = session.keeper, session.device
    return FitResult(
        status=status,
        monitor=session.task.monitor,
        best_metric=keeper.best.value,
        best_epoch=keeper.best.epoch,
        metrics={f"validation/{name}": value for name, value in keeper.best_scores.items()},
        num_epochs=keeper.num_epochs,
        stopped_early=keeper.stopped_early,
        images_per_s=round(session.recorder.images_per_s(), 2),
        durations_s={"fit": round(elapsed_s, 3), "checkpoints": round(session.checkpointer.duration_s, 3)},
        device=str(device),
        precision=device.precision,
        resumed_from_step=session.start.step,
        history=epoch_lines(session.run.metrics) if is_leader() else [],
    )


def _finish(session: _Session, result: FitResult) -> None:
    """Write what a finished run leaves, or tell how a stopped one goes on."""
    run = session.run
    if result.status == "killed":
        say(f"stopped by {session.stop.signal_name or 'another process'}; to go on: lab train --resume {run.path}")
        return
    with atomic_path(run.weights) as temporary:
        shutil.copyfile(run.best / WEIGHTS, temporary)
    record = asdict(result)
    del record["history"]
    write_json(finished_path(run), record)


@contextmanager
def _own_process_group() -> Iterator[None]:
    """End the process group that Lightning starts, so that what rank 0 does afterwards waits for nobody."""
    was_there = torch.distributed.is_initialized()
    try:
        yield
    finally:
        if torch.distributed.is_initialized() and not was_there:
            torch.distributed.destroy_process_group()
