"""A tiny task for the training tests: blobs of noise around class means, a conv net with batch norm and dropout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from lab.config.run import RunConfig
from lab.core.errors import ConfigError
from lab.core.interfaces import RunStatus
from lab.core.seeding import stream

NUM_CLASSES = 3
NUM_TRAIN, NUM_VALIDATION = 89, 31


class FakeConfig(RunConfig):
    """The shared configuration with two settings of the model."""

    task: str = "fake"
    width: int = 5
    dropout: float = 0.3


class MemoryBatches:
    """Resumable batches of tensors; the order depends on (seed, epoch) alone."""

    def __init__(
        self, x_NCHW: Tensor, y_N: Tensor, batch_size: int, *, seed: int, shuffle: bool, rank: int, num_ranks: int
    ) -> None:
        self.x_NCHW, self.y_N, self.batch_size = x_NCHW, y_N, batch_size
        self.seed, self.shuffle, self.rank, self.num_ranks = seed, shuffle, rank, num_ranks
        self.epoch, self.next_batch, self._start = 0, 0, 0

    def __len__(self) -> int:
        return -(-(len(self.y_N) // self.num_ranks) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        self.epoch, self._start = epoch, 0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "next_batch": self.next_batch}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.epoch, self._start = state["epoch"], state["next_batch"]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        start, self._start = self._start, 0
        per_rank = len(self.y_N) // self.num_ranks
        rng = stream(self.seed, "shuffle", self.epoch)
        order = torch.from_numpy(rng.permutation(len(self.y_N))) if self.shuffle else torch.arange(len(self.y_N))
        mine = order[self.rank :: self.num_ranks][:per_rank]
        for index in range(start, len(self)):
            picked = mine[index * self.batch_size : (index + 1) * self.batch_size]
            self.next_batch = index + 1
            yield self.x_NCHW[picked], self.y_N[picked]


class FakeTask:
    """`LearningTask` over tensors in memory. `scores` replaces the validation accuracy, epoch by epoch."""

    monitor = "accuracy"
    monitor_mode: Literal["max", "min"] = "max"

    def __init__(self, config: FakeConfig) -> None:
        self.config = config
        rng = stream(config.seed, "data")
        means = rng.standard_normal((NUM_CLASSES, 2, 7, 5))

        def split(count: int) -> tuple[Tensor, Tensor]:
            y_N = rng.integers(0, NUM_CLASSES, count)
            x_NCHW = means[y_N] + rng.standard_normal((count, 2, 7, 5))
            return torch.from_numpy(x_NCHW).float(), torch.from_numpy(y_N)

        self.train, self.validation = split(NUM_TRAIN), split(NUM_VALIDATION)

    def build_model(self, *, pretrained: bool = True) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(self.config.seed)
            width = self.config.width
            return nn.Sequential(
                nn.Conv2d(2, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Dropout(self.config.dropout),
                nn.AdaptiveAvgPool2d(2),
                nn.Flatten(),
                nn.Linear(4 * width, NUM_CLASSES),
            )

    def train_metrics(self) -> MetricCollection:
        return self.metrics()

    def published(self, name: str) -> dict[str, Tensor]:
        raise ConfigError(f"there is no published model '{name}'")

    def train_loader(self, rank: int = 0, num_ranks: int = 1) -> MemoryBatches:
        size, seed = self.config.train.batch_size, self.config.seed
        return MemoryBatches(*self.train, size, seed=seed, shuffle=True, rank=rank, num_ranks=num_ranks)

    def eval_loader(self, split: Literal["validation", "test"]) -> MemoryBatches:
        return MemoryBatches(*self.validation, 11, seed=0, shuffle=False, rank=0, num_ranks=1)

    def on_device(self, batch: Any, *, training: bool, seed: int) -> Any:
        x_NCHW, y_N = batch
        if training:  # an augmentation that depends on the seed alone
            noise = torch.randn(x_NCHW.shape, generator=torch.Generator().manual_seed(seed)).to(x_NCHW)
            x_NCHW = x_NCHW + 0.1 * noise
        return x_NCHW, y_N

    def step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        x_NCHW, y_N = batch
        logits_NK = model(x_NCHW)
        return {"loss": F.cross_entropy(logits_NK.float(), y_N), "logits": logits_NK}

    def metrics(self) -> MetricCollection:
        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(NUM_CLASSES, average="micro"),
                "top_2": MulticlassAccuracy(NUM_CLASSES, top_k=2, average="micro"),
            }
        )

    def update_metrics(self, metrics: MetricCollection, outputs: Mapping[str, Tensor], batch: Any) -> None:
        metrics.update(outputs["logits"], batch[1])

    def plots(self, model: nn.Module, folder: Path) -> list[Path]:
        return []

    def dataset_card(self) -> dict[str, Any]:
        return {"name": "fake"}


class ListTracker:
    """A tracker that keeps the metrics it is given."""

    run_id = "list"

    def __init__(self) -> None:
        self.metrics: list[tuple[int | None, dict[str, float]]] = []

    def log_params(self, params: Mapping[str, object]) -> None: ...

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.metrics.append((step, dict(metrics)))

    def log_artifact(self, path: Path, folder: str = "") -> None: ...

    def set_tags(self, tags: Mapping[str, str]) -> None: ...

    def finish(self, status: RunStatus = "finished") -> None: ...


def fake_config(**sections: Any) -> FakeConfig:
    """A short CPU run; keyword arguments replace sections or, as dicts, update them."""
    base: dict[str, Any] = {
        "train": {"device": "cpu", "epochs": 3, "batch_size": 8, "num_threads": 1, "log_every_n_steps": 1},
        "optimizer": {"learning_rate": 0.05},
    }
    for name, value in sections.items():
        base[name] = base.get(name, {}) | value if isinstance(value, dict) else value
    return FakeConfig.model_validate(base)
