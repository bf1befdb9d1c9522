"""Batches of samples of similar length, padded, resumable, and how much of them is padding.

Samples are ordered by bucket (target length, then source length, in steps of `bucket_width`), at random within each,
and cut into batches along that order, which then come in random order. So every sample is seen once per epoch, every
epoch has the same number of batches, and only one of them is smaller than the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lab.core.seeding import stream
from lab.nn.loaders import Batch, EpochPosition
from lab.tasks.seq2seq.config import BatchingConfig
from lab.tasks.seq2seq.corpus import Numbered


@dataclass(frozen=True)
class Batcher:
    """Which samples form the batches of an epoch.

    Args:
        source_lengths, target_lengths: per sample, int64.
        batch_size: sentences per batch, where `options` do not count tokens.
    """

    source_lengths: np.ndarray
    target_lengths: np.ndarray
    batch_size: int
    options: BatchingConfig
    seed: int

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Indices of every batch, in the order in which they come."""
        rng = stream(self.seed, "order", epoch)
        shuffled = rng.permutation(len(self.source_lengths))
        order = shuffled
        if self.options.bucketing:
            source, target = self._rounded(self.source_lengths), self._rounded(self.target_lengths)
            order = shuffled[np.lexsort((source[shuffled], target[shuffled]))]
        cuts = self._cuts(order)
        found = np.split(order, cuts)
        return [found[number] for number in rng.permutation(len(found))]

    def _rounded(self, lengths: np.ndarray) -> np.ndarray:
        """Lengths rounded up to their bucket's end."""
        width = self.options.bucket_width
        rounded: np.ndarray = -(-lengths // width) * width
        return rounded

    def _cuts(self, order: np.ndarray) -> np.ndarray:
        """Where the order is cut; by buckets and not by lengths, so that their number is that of every epoch."""
        limit = self.options.batch_tokens
        if limit is None:
            return np.arange(self.batch_size, len(order), self.batch_size)
        sides = (self.source_lengths, self.target_lengths)
        if self.options.bucketing:
            widths = np.stack([self._rounded(side)[order] for side in sides], axis=1)
        else:
            widths = np.tile([side.max() for side in sides], (len(order), 1))
        cuts, start, widest = [], 0, np.zeros(2, np.int64)
        for place, width in enumerate(widths):
            widest = np.maximum(widest, width)
            if place > start and (place - start + 1) * widest.sum() > limit:
                cuts.append(place)
                start, widest = place, width
        return np.asarray(cuts, np.int64)

    def padding_share(self, epoch: int = 0) -> float:
        """The part of all source and target places of an epoch that is padding."""
        num_places = 0
        for batch in self.batches(epoch):
            num_places += len(batch) * int(self.source_lengths[batch].max() + self.target_lengths[batch].max())
        return 1 - int(self.source_lengths.sum() + self.target_lengths.sum()) / num_places


class PairLoader(EpochPosition):
    """Padded batches in the order of a `Batcher`, or in the data's own order; `lab.nn.learning.ResumableLoader`.

    A batch is {"source" [B, S], "source_lengths" [B], "target" [B, T], "target_lengths" [B], "index" [B]}, int64.
    """

    def __init__(
        self, samples: Numbered, batch_size: int, batcher: Batcher | None, *, rank: int = 0, num_ranks: int = 1
    ) -> None:
        super().__init__(len(samples), batch_size, drop_last=False)
        self.samples, self.batcher, self._rank, self._num_ranks = samples, batcher, rank, num_ranks
        self._planned: tuple[int, list[np.ndarray]] | None = None

    def plan(self) -> list[np.ndarray]:
        """Indices of every batch that this process has in the current epoch."""
        if self._planned is None or self._planned[0] != self.epoch:
            self._planned = (self.epoch, self._plan())
        return self._planned[1]

    def _plan(self) -> list[np.ndarray]:
        if self.batcher is None:
            return np.split(np.arange(len(self.samples)), range(self.batch_size, len(self.samples), self.batch_size))
        batches = self.batcher.batches(self.epoch)
        whole = len(batches) - len(batches) % self._num_ranks
        return batches[self._rank : whole : self._num_ranks]

    def __len__(self) -> int:
        return len(self.plan())

    def _batches_from(self, start: int) -> Iterator[Batch]:
        for indices in self.plan()[start:]:
            yield self._batch(indices)

    def _batch(self, indices: np.ndarray) -> Batch:
        source, source_lengths = padded([self.samples.sources[index] for index in indices])
        target, target_lengths = padded([self.samples.targets[index] for index in indices])
        return {
            "source": source,
            "source_lengths": source_lengths,
            "target": target,
            "target_lengths": target_lengths,
            "index": torch.from_numpy(self.samples.index[indices]),
        }


def padded(rows: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """([B, longest] filled up with 0, lengths [B]), int64."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    table = np.zeros((len(rows), int(lengths.max())), np.int64)
    table[np.arange(table.shape[1]) < lengths[:, None]] = np.concatenate(rows)
    return torch.from_numpy(table), torch.from_numpy(lengths)
