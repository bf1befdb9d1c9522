"""Batches by length: every sample once, the same number in every epoch, less padding, resumable, divided over ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lab.tasks.seq2seq.batching import Batcher, PairLoader, padded
from lab.tasks.seq2seq.config import BatchingConfig
from lab.tasks.seq2seq.corpus import Numbered

RNG = np.random.default_rng(0)
SOURCES, TARGETS = RNG.integers(2, 40, 211), RNG.integers(2, 40, 211)


def batcher(batch_size: int = 16, **options: object) -> Batcher:
    return Batcher(SOURCES, TARGETS, batch_size, BatchingConfig.model_validate(options), seed=3)


OPTIONS: list[dict[str, object]] = [
    {},
    {"bucketing": False},
    {"batch_tokens": 500},
    {"bucketing": False, "batch_tokens": 500},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_every_sample_comes_once_and_epochs_are_equally_long(options: dict[str, object]) -> None:
    ours = batcher(**options)
    for epoch in range(3):
        batches = ours.batches(epoch)
        assert sorted(np.concatenate(batches).tolist()) == list(range(211))
        assert len(batches) == len(ours.batches(0))
    assert [b.tolist() for b in ours.batches(1)] == [b.tolist() for b in batcher(**options).batches(1)]
    assert [b.tolist() for b in ours.batches(1)] != [b.tolist() for b in ours.batches(2)]


def test_buckets_leave_less_padding() -> None:
    mixed, bucketed = batcher(bucketing=False).padding_share(), batcher(bucket_width=10).padding_share()
    assert mixed > 0.4
    assert bucketed < 0.6 * mixed
    assert batcher(batch_size=1).padding_share() == 0.0


def test_token_sized_batches_stay_below_their_size() -> None:
    for batch in batcher(batch_tokens=500, bucket_width=5).batches(0):
        assert len(batch) == 1 or len(batch) * (SOURCES[batch].max() + TARGETS[batch].max()) <= 500


def samples() -> Numbered:
    rows = [[np.full(length, 4 + number % 9) for number, length in enumerate(side)] for side in (SOURCES, TARGETS)]
    return Numbered(rows[0], rows[1], np.arange(211), {})


def test_a_resumed_loader_goes_on_with_the_next_batch() -> None:
    whole = PairLoader(samples(), 16, batcher())
    whole.set_epoch(2)
    expected = [batch["index"].tolist() for batch in whole]
    cut = PairLoader(samples(), 16, batcher())
    cut.set_epoch(2)
    stream = iter(cut)
    for _ in range(5):
        next(stream)
    resumed = PairLoader(samples(), 16, batcher())
    resumed.load_state_dict(cut.state_dict())
    assert len(resumed) == len(expected) == 14
    assert [batch["index"].tolist() for batch in resumed] == expected[5:]


def test_ranks_share_the_batches_without_overlap() -> None:
    loaders = [PairLoader(samples(), 16, batcher(), rank=rank, num_ranks=3) for rank in range(3)]
    assert {len(loader) for loader in loaders} == {4}
    seen = [index for loader in loaders for batch in loader for index in batch["index"].tolist()]
    assert len(seen) == len(set(seen))
    assert len(seen) in (12 * 16, 12 * 16 - 16 + 211 % 16)  # the small batch is among them, or sits out


def test_evaluation_keeps_the_order_and_pads_with_zero() -> None:
    loader = PairLoader(samples(), 50, None)
    batches = list(loader)
    assert [len(batch["index"]) for batch in batches] == [50, 50, 50, 50, 11]
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(211))
    table, lengths = padded([np.asarray([4, 5]), np.asarray([6])])
    assert (table.tolist(), lengths.tolist()) == ([[4, 5], [6, 0]], [2, 1])
