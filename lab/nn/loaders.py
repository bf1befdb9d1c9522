"""Batches whose order and content depend only on (seed, epoch, batch), in memory or from worker processes.

Both loaders implement `lab.nn.learning.ResumableLoader`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from lab.config.run import TrainConfig
from lab.core.errors import ConfigError, DataError

Order = Callable[[int], np.ndarray]
"""Epoch -> indices of the samples this process visits, in order."""
Batch = dict[str, Tensor]
Sample = TypeVar("Sample")


def pins_memory(train: TrainConfig) -> bool:
    """Whether batches are put where a GPU can fetch them by itself."""
    return train.device != "cpu" and torch.cuda.is_available()


class EpochPosition(ABC):
    """Bookkeeping of epoch and position; subclasses say how many batches an epoch has, and make them.

    With `drop_last` a rest smaller than `batch_size` sits out, unless it is the whole epoch.
    """

    def __init__(self, num_samples: int, batch_size: int, *, drop_last: bool) -> None:
        if batch_size < 1:
            raise ConfigError("a batch needs samples", got=f"batch_size {batch_size}", expected="1 or more")
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.epoch = 0
        self.next_batch = 0
        self._resume_at = 0
        self._num_samples = num_samples

    def __len__(self) -> int:
        whole, rest = divmod(self._num_samples, self.batch_size)
        return whole if self.drop_last and whole else whole + bool(rest)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch. A position set by `load_state_dict` is kept only when it belongs to this epoch."""
        if epoch != self.epoch:
            self.epoch, self.next_batch, self._resume_at = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "next_batch": self.next_batch}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.epoch = int(state["epoch"])
        self.next_batch = self._resume_at = int(state["next_batch"])

    def __iter__(self) -> Iterator[Batch]:
        start, self._resume_at = self._resume_at, 0
        self.next_batch = start
        for batch in self._batches_from(start):
            self.next_batch += 1
            yield batch

    @abstractmethod
    def _batches_from(self, start: int) -> Iterator[Batch]:
        """The batches of the current epoch from number `start` on."""


class EpochLoader(EpochPosition):
    """Batches of samples that have an index; subclasses say how a batch is made from indices."""

    def __init__(self, order: Order, batch_size: int, *, drop_last: bool) -> None:
        super().__init__(len(order(0)), batch_size, drop_last=drop_last)
        self.order = order

    def batch_indices(self) -> list[np.ndarray]:
        """The indices of every batch of the current epoch."""
        order = self.order(self.epoch)
        return [order[number * self.batch_size : (number + 1) * self.batch_size] for number in range(len(self))]

    def _batches_from(self, start: int) -> Iterator[Batch]:
        return self._batches(self.batch_indices()[start:])

    @abstractmethod
    def _batches(self, batches: Sequence[np.ndarray]) -> Iterator[Batch]: ...


class MemoryLoader(EpochLoader):
    """Batches gathered from tensors whose first dimension is the sample."""

    def __init__(self, tensors: Mapping[str, Tensor], order: Order, batch_size: int, *, drop_last: bool) -> None:
        super().__init__(order, batch_size, drop_last=drop_last)
        self.tensors = dict(tensors)

    def _batches(self, batches: Sequence[np.ndarray]) -> Iterator[Batch]:
        for indices in batches:
            index = torch.from_numpy(indices)
            yield {name: tensor.index_select(0, index) for name, tensor in self.tensors.items()}


class WorkerLoader(EpochLoader, Generic[Sample]):
    """Batches of samples that `load(epoch, index)` makes, in `num_workers` processes (0: in this one).

    `load` must draw its randomness from (epoch, index) alone; which worker runs it, and when, then changes nothing.
    Errors raised in a worker arrive here as they are. `collate_fn` makes a batch of samples, or hands on a DataError
    among them; by default tensors are stacked.
    """

    def __init__(
        self,
        load: Callable[[int, int], dict[str, Any]],
        order: Order,
        batch_size: int,
        *,
        drop_last: bool,
        num_workers: int,
        pin_memory: bool = False,
        collate_fn: Callable[[list[Any]], Batch | DataError] | None = None,
    ) -> None:
        super().__init__(order, batch_size, drop_last=drop_last)
        self._sampler = _Sampler()
        self._loader: DataLoader[Any] = DataLoader(
            LoadedSamples(load),
            batch_sampler=self._sampler,
            num_workers=num_workers,
            collate_fn=collate_fn or collate,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            generator=torch.Generator(),  # else each epoch would draw from the global one
        )

    def _batches(self, batches: Sequence[np.ndarray]) -> Iterator[Batch]:
        self._sampler.keys = [[(self.epoch, int(index)) for index in indices] for indices in batches]
        return decoded(self._loader)


class _Sampler:
    """The keys of the batches still to come; runs in the main process, so workers need no state of the epoch."""

    def __init__(self) -> None:
        self.keys: list[list[tuple[int, int]]] = []

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


class LoadedSamples(Dataset[Any]):
    """What workers run: `load(*key)`; a DataError is returned, not raised."""

    def __init__(self, load: Callable[..., dict[str, Any]]) -> None:
        self.load = load

    def __getitem__(self, key: tuple[Any, ...]) -> dict[str, Any] | DataError:
        # An exception would cross the process boundary as text with a foreign traceback; a value arrives as it is.
        try:
            return self.load(*key)
        except DataError as error:
            return error


def decoded(loader: Iterable[Batch | DataError]) -> Iterator[Batch]:
    """The batches; a DataError that came in the place of one is raised."""
    for batch in loader:
        if isinstance(batch, DataError):
            try:
                raise batch
            finally:
                # Else the error, its traceback and this frame hold each other and, through callers' frames, the
                # loader: the collector would end its workers in the wrong order, waiting seconds for each.
                del batch
        yield batch


def collate(samples: list[dict[str, Any] | DataError]) -> Batch | DataError:
    """Stack samples, in a worker straight into shared memory; the first DataError instead if there is one."""
    good: list[dict[str, Any]] = []
    for sample in samples:
        if isinstance(sample, DataError):
            return sample
        good.append(sample)
    return {name: default_collate([torch.as_tensor(sample[name]) for sample in good]) for name in good[0]}
