"""Whether a run can go on from its checkpoint, must start over, or is already finished."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.artifacts.files import read_json
from lab.artifacts.rundir import RunDir
from lab.config.run import RunConfig
from lab.core.errors import ArtifactError
from lab.core.progress import say, warn
from lab.train.checkpoint_io import has_checkpoint, read_structure
from lab.train.device import Device

# What may differ between the run that wrote a checkpoint and the one that goes on from it.
FREE_SECTIONS = frozenset({"name", "runs_dir", "tracking", "export", "checkpoint", "early_stopping"})
FREE_TRAIN_KEYS = frozenset({"device", "devices", "epochs", "num_workers", "num_threads", "log_every_n_steps"})


@dataclass(frozen=True)
class StartPoint:
    """Where training begins: a checkpoint, or the first step; `finished` holds the result of a finished run."""

    checkpoint: Path | None = None
    step: int = 0
    finished: dict[str, Any] | None = None


def finished_path(run: RunDir) -> Path:
    """The file that records the result of a finished training."""
    return run.checkpoint.parent / "finished.json"


def find_start(run: RunDir, config: RunConfig, device: Device) -> StartPoint:
    """Where `fit(resume=True)` begins.

    Raises:
        ArtifactError: the checkpoint was written with another configuration, or cannot be read.
    """
    if not has_checkpoint(run.checkpoint):
        say(f"no checkpoint in {run.path}: training starts from the beginning")
        return StartPoint()
    state = read_structure(run.checkpoint)
    written = state["lab"]
    _check_config(written["config"], config, run)
    finished = _finished(run, config)
    if finished is not None:
        say(f"{run.path} is already finished after {finished['num_epochs']} epochs: nothing to do")
        return StartPoint(run.checkpoint, int(state["global_step"]), finished)
    _tell_differences(written, config, device)
    say(f"resuming {run.path} at step {state['global_step']}, epoch {int(state['epoch']) + 1}")
    return StartPoint(run.checkpoint, int(state["global_step"]))


def _finished(run: RunDir, config: RunConfig) -> dict[str, Any] | None:
    path = finished_path(run)
    if not path.exists():
        return None
    result: dict[str, Any] = read_json(path)
    is_over = result["stopped_early"] or result["num_epochs"] >= config.train.epochs
    return result if is_over and run.weights.exists() else None


def _check_config(written: Mapping[str, Any], config: RunConfig, run: RunDir) -> None:
    before, now = _binding(written), _binding(config.model_dump(mode="json"))
    keys = [key for key in sorted(before | now) if before.get(key) != now.get(key)]
    changed = [f"{key}: {before.get(key)!r} -> {now.get(key)!r}" for key in keys]
    if changed:
        more = f", and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise ArtifactError(
            "the checkpoint was written with another configuration",
            got="; ".join(changed[:5]) + more,
            expected=f"the configuration in {run.config}",
            hint="resume with the run's own configuration, or start a new run",
        )


def _binding(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a resumed run must share, with dotted keys."""
    flat: dict[str, Any] = {}
    for section, value in config.items():
        if section not in FREE_SECTIONS:
            flat |= {f"{section}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {section: value}
    return {key: value for key, value in flat.items() if key not in {f"train.{name}" for name in FREE_TRAIN_KEYS}}


def _tell_differences(written: Mapping[str, Any], config: RunConfig, device: Device) -> None:
    """Say what makes the resumed run differ from an uninterrupted one."""
    epochs = written["config"]["train"]["epochs"]
    if epochs != config.train.epochs:
        say(f"epochs: {epochs} -> {config.train.epochs}; the learning rate follows the schedule of the new number")
    processes = device.devices * device.num_nodes
    for what, before, now in (
        ("CPU threads", written["num_threads"], device.num_threads),
        ("processes", written["world_size"], processes),
    ):
        if before != now:
            warn(f"the checkpoint was written with {before} {what}, this run has {now}: results will differ slightly")
