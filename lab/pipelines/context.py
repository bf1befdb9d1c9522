"""What every pipeline starts from: a configuration, or a trained run opened again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lab.artifacts.manifest import MANIFEST_NAME, Manifest
from lab.artifacts.rundir import RunDir, find_run
from lab.config.load import Source, build, read_source
from lab.config.run import RunConfig
from lab.core.errors import ArtifactError, ConfigError
from lab.core.host import num_cores
from lab.core.progress import say
from lab.tasks import CONFIGS, DEPLOY, LEARN

if TYPE_CHECKING:
    from torch import nn

    from lab.core.interfaces import Tracker


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a configuration file with overrides and check it against its task's model. Raises ConfigError."""
    source = read_source(path, overrides)
    config = build(source, config_model(source))
    return config if config.name else config.model_copy(update={"name": path.stem})


def config_model(source: Source) -> type[RunConfig]:
    """The configuration model named by the source's `task` key."""
    task = source.data.get("task")
    if not isinstance(task, str):
        raise ConfigError(
            f"{source.where(('task',))}: 'task' is missing", got=task, expected="one of " + ", ".join(CONFIGS)
        )
    model: type[RunConfig] = CONFIGS[task]
    return model


@dataclass(frozen=True)
class OpenRun:
    """A run's folder with its resolved configuration and manifest."""

    dir: RunDir
    config: RunConfig
    manifest: Manifest

    @classmethod
    def find(cls, spec: str, runs_dir: Path, *, task: str | None = None) -> OpenRun:
        """Open a finished run by folder, name or "latest". Raises ArtifactError, IntegrityError."""
        run = find_run(spec, runs_dir, task)
        if not run.weights.exists():
            status = run.read_status().get("status", "unknown")
            raise ArtifactError(
                f"the run {run.path} has no trained weights yet",
                got=f"status {status}",
                hint=f"lab train --resume {run.path}",
            )
        return cls(run, load_config(run.config), Manifest.load(run.path))

    @property
    def deploy(self) -> ModuleType:
        module: ModuleType = DEPLOY[self.config.task]
        return module

    @cached_property
    def _learning_task(self) -> Any:
        return LEARN[self.config.task](self.config)

    def learning_task(self) -> Any:
        """The task's learning half, made once, so that its data is read once; imports torch."""
        return self._learning_task

    def build_model(self) -> nn.Module:
        """The trained model in evaluation mode on the CPU."""
        from lab.train.weights import load_weights

        # The stored weights replace the initial ones, so none are downloaded.
        model: nn.Module = self.learning_task().build_model(pretrained=False)
        load_weights(model, self.dir.weights)
        return model.eval()

    def tracker(self, name: str, tags: dict[str, str] | None = None) -> Tracker:
        """A child run of this run in the tracker, for what happens to the model after training."""
        from lab.tracking import open_tracker

        status = self.dir.read_status()
        return open_tracker(
            self.config.tracking,
            experiment=experiment_name(self.config),
            run_name=f"{name} {self.dir.name}",
            parent_run_id=status.get("mlflow_run_id") or None,
            tags={"lab.step": name.split()[0], "lab.parent": self.dir.name} | (tags or {}),
            folder=self.dir.path,
        )


def existing_artifact(folder: Path, step: str) -> Manifest | None:
    """The manifest of what an earlier run of `step` left in `folder`; None, and a line, when it cannot be used."""
    if not (folder / MANIFEST_NAME).exists():
        return None
    try:
        return Manifest.load(folder)
    except ArtifactError as error:
        say(f"{step}: the existing one is not used: {error.what}")
        return None


def experiment_name(config: RunConfig) -> str:
    return config.tracking.experiment or f"lab-{config.task}"


def threads_or_all(num_threads: int | None) -> int:
    """The one thread count that every engine of a command is given."""
    return num_threads or num_cores()
