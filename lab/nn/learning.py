"""What the training loop needs of a task: the one protocol between `lab.train` and `lab.tasks`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor, nn
from torchmetrics import MetricCollection

from lab.core.signature import Signature


class ResumableLoader(Protocol):
    """Batches of one split. The order and the augmentation depend only on (seed, epoch, index).

    Iterating starts at the batch recorded by `load_state_dict` (then forgets it), so a run that was killed in the
    middle of an epoch goes on with exactly the batches it had not seen.
    """

    def __iter__(self) -> Iterator[Any]: ...

    def __len__(self) -> int:
        """Batches in a whole epoch, also when resumed in its middle."""
        ...

    def set_epoch(self, epoch: int) -> None: ...

    def state_dict(self) -> dict[str, int]:
        """{"epoch": e, "next_batch": b}: the batch after the last one yielded."""
        ...

    def load_state_dict(self, state: Mapping[str, int]) -> None: ...


class OneCall:
    """The part of a `LearningTask` whose model is one function."""

    @property
    def functions(self) -> dict[str, Signature]:
        return {}

    def export_modules(self, model: nn.Module) -> dict[str, nn.Module]:
        return {"main": model}


class LearningTask(Protocol):
    """The learning half of a task, built from its configuration (`LEARN[name](config)`)."""

    monitor: str
    """Validation metric that picks the best weights, e.g. "accuracy"."""
    monitor_mode: Literal["max", "min"]

    @property
    def signature(self) -> Signature:
        """Of the whole model, as its deploy half calls it."""
        ...

    @property
    def functions(self) -> dict[str, Signature]:
        """The signatures of a program's functions (`lab.runtime.program`); none where the model is one call."""
        ...

    def export_modules(self, model: nn.Module) -> dict[str, nn.Module]:
        """For each function a module that takes its signature's inputs in order and returns the outputs in order;
        "main" where the model is one call."""
        ...

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What the deploy half needs to turn a file into the model's input."""
        ...

    @property
    def labels(self) -> tuple[str, ...]: ...

    def build_model(self, *, pretrained: bool = True) -> nn.Module:
        """A fresh model; initial weights depend only on the configured seed.

        `pretrained=False` skips published weights that the configuration asks for: stored ones will replace them.
        """
        ...

    def published(self, name: str) -> dict[str, Tensor]:
        """torchvision's published weights of the whole model `name` under this task's own parameter names.

        Raises:
            ConfigError: no such model for this task; lists those there are.
            ArtifactError: the weights cannot be had, or are of another architecture than the configured one.
        """
        ...

    def train_loader(self, rank: int = 0, num_ranks: int = 1) -> ResumableLoader: ...

    def eval_loader(self, split: Literal["validation", "test"]) -> ResumableLoader: ...

    def has_split(self, split: Literal["train", "validation", "test"]) -> bool: ...

    def score_options(self) -> dict[str, Any]:
        """Further arguments of the deploy half's `score`."""
        ...

    def on_device(self, batch: Any, *, training: bool, seed: int) -> Any:
        """Work on a whole batch after it reached the device: normalisation, augmentation, mixup."""
        ...

    def step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Forward and loss; returns at least {"loss": scalar}, and what `update_metrics` reads."""
        ...

    def metrics(self) -> MetricCollection:
        """Metrics without prefix, all of them scalars; perfect predictions give the maximum of `monitor`."""
        ...

    def train_metrics(self) -> MetricCollection:
        """Those that are also measured on training batches; none where that would cost more than it tells."""
        ...

    def update_metrics(self, metrics: MetricCollection, outputs: Mapping[str, Tensor], batch: Any) -> None: ...

    def plots(self, model: nn.Module, folder: Path) -> list[Path]:
        """Pictures of the trained model's behaviour on the evaluation split, as PNG files in `folder`."""
        ...

    def dataset_card(self) -> dict[str, Any]:
        """Name, digest, source and sizes of the data, for the manifest and the tracker."""
        ...
