"""Loaders: the same batches whatever happened before, resumable, and errors that cross processes whole."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from lab.core.errors import ConfigError, DataError
from lab.core.seeding import stream
from lab.data.sampling import epoch_order
from lab.nn.loaders import EpochLoader, MemoryLoader, WorkerLoader

NUM, BATCH = 23, 5
MakeLoader = Callable[..., EpochLoader]


def load_sample(epoch: int, index: int) -> dict[str, Any]:
    """A sample with noise that depends on (epoch, index)."""
    noise = stream(0, "noise", epoch, index).random(3).astype(np.float32)
    return {"x": noise, "target": index}


def fail_at_seven(epoch: int, index: int) -> dict[str, Any]:
    if index == 7:
        raise DataError("seven is broken", got="7")
    return {"x": np.zeros(1, np.float32), "target": index}


def memory(drop_last: bool = False) -> MemoryLoader:
    tensors = {"x": torch.arange(NUM * 3.0).reshape(NUM, 3), "target": torch.arange(NUM)}
    return MemoryLoader(tensors, partial(epoch_order, NUM, 1), BATCH, drop_last=drop_last)


def worker(num_workers: int, drop_last: bool = False, load: Any = load_sample) -> WorkerLoader:
    return WorkerLoader(load, partial(epoch_order, NUM, 1), BATCH, drop_last=drop_last, num_workers=num_workers)


LOADERS = [memory, partial(worker, 0), partial(worker, 2)]


def targets(loader: EpochLoader) -> list[list[int]]:
    return [batch["target"].tolist() for batch in loader]


@pytest.mark.parametrize("make", LOADERS, ids=["memory", "in process", "workers"])
def test_resumed_epoch_goes_on_with_the_next_batch(make: MakeLoader) -> None:
    whole = make()
    whole.set_epoch(3)
    expected = [{name: tensor.clone() for name, tensor in batch.items()} for batch in whole]
    interrupted = make()
    interrupted.set_epoch(3)
    batches = iter(interrupted)
    next(batches), next(batches)
    state = interrupted.state_dict()
    assert state == {"epoch": 3, "next_batch": 2}
    resumed = make()
    resumed.load_state_dict(state)
    assert len(resumed) == 5
    rest = list(resumed)
    assert len(rest) == 3
    for wanted, got in zip(expected[2:], rest, strict=True):
        assert all(torch.equal(wanted[name], got[name]) for name in ("x", "target"))
    assert resumed.state_dict() == {"epoch": 3, "next_batch": 5}
    resumed.set_epoch(4)
    assert len(list(resumed)) == 5


@pytest.mark.parametrize("make", LOADERS, ids=["memory", "in process", "workers"])
def test_an_epoch_is_a_permutation_and_repeats_bit_for_bit(make: MakeLoader) -> None:
    loader = make()
    first = list(loader)
    assert sorted(index for batch in first for index in batch["target"].tolist()) == list(range(NUM))
    torch.rand(3), random.random()
    again = list(loader)
    assert all(torch.equal(a["x"], b["x"]) for a, b in zip(first, again, strict=True))
    loader.set_epoch(1)
    assert targets(loader) != [batch["target"].tolist() for batch in first]


def test_workers_change_nothing() -> None:
    one, two = list(worker(0)), list(worker(2))
    assert all(torch.equal(a["x"], b["x"]) for a, b in zip(one, two, strict=True))


def test_global_generators_are_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    list(worker(0))
    list(memory())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_stopped_epoch_does_not_leak_into_the_next() -> None:
    loader = worker(2)
    batches = iter(loader)
    next(batches)
    loader.set_epoch(1)
    fresh = worker(0)
    fresh.set_epoch(1)
    assert targets(loader) == targets(fresh)


def test_drop_last() -> None:
    assert (len(memory()), len(memory(drop_last=True))) == (5, 4)
    assert [len(batch) for batch in targets(memory(drop_last=True))] == [5, 5, 5, 5]
    tiny = MemoryLoader({"target": torch.arange(3)}, partial(epoch_order, 3, 0), BATCH, drop_last=True)
    assert (len(tiny), [len(batch) for batch in targets(tiny)]) == (1, [3])


def test_empty_batches_are_refused() -> None:
    with pytest.raises(ConfigError, match="a batch needs samples"):
        MemoryLoader({"x": torch.zeros(1)}, partial(epoch_order, 1, 0), 0, drop_last=False)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_data_errors_arrive_as_they_are(num_workers: int) -> None:
    with pytest.raises(DataError, match="seven is broken") as caught:
        list(worker(num_workers, load=fail_at_seven))
    assert caught.value.got == "7"
