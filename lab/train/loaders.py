"""A task's loaders as Lightning iterates them: the right epoch, resumable, global random states untouched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lab.nn.learning import ResumableLoader
from lab.train.rng import protected_rng

_END = object()


class TrainBatches:
    """Batches of the current epoch; keeps and restores the position inside it.

    Everything waits for the first batch, because Lightning asks for an iterator before it knows the epoch.
    """

    def __init__(self, loader: ResumableLoader, current_epoch: Callable[[], int]) -> None:
        self._loader = loader
        self._current_epoch = current_epoch
        self._is_restored = False

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        with protected_rng():
            # A restored position carries its epoch, and setting one would forget the position.
            if not self._is_restored:
                self._loader.set_epoch(self._current_epoch())
            self._is_restored = False
            batches = iter(self._loader)
            first = next(batches, _END)
        if first is not _END:
            yield first
            yield from batches

    def state_dict(self) -> dict[str, int]:
        return dict(self._loader.state_dict())

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self._loader.load_state_dict(state)
        self._is_restored = True


class EvalBatches:
    """Every `num_ranks`-th batch of an evaluation split, so that each sample is scored by exactly one process."""

    def __init__(self, loader: ResumableLoader, rank: int, num_ranks: int) -> None:
        self._loader = loader
        self._rank = rank
        self._num_ranks = num_ranks

    def __len__(self) -> int:
        return len(range(self._rank, len(self._loader), self._num_ranks))

    def __iter__(self) -> Iterator[Any]:
        with protected_rng():
            batches = iter(self._loader)
            first = next(batches, _END)
        if first is _END:
            return
        if self._rank == 0:
            yield first
        for index, batch in enumerate(batches, start=1):
            if index % self._num_ranks == self._rank:
                yield batch
