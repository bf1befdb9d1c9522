"""Batches of a stream: the same for any number of workers, resumable, equal in number on all ranks, errors whole."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.core.errors import DataError
from lab.core.seeding import stream as random_stream
from lab.data.dataset import ReadOptions
from lab.data.formats import recordio, tar
from lab.data.raw import RawSample
from lab.data.streaming import SampleStream, open_stream
from lab.nn.stream_loader import StreamLoader
from tests.data.held import LABELS, held

NUM, BATCH = 23, 4
OPTIONS = ReadOptions(labels=LABELS)


def load_sample(raw: RawSample, epoch: int) -> dict[str, Any]:
    """Noise that depends on (epoch, index), and the sample's number."""
    noise = random_stream(0, "noise", epoch, raw.index).random(3)
    return {"x": noise, "number": raw.image[-1], "target": raw.annotation}


def fail_at_seven(raw: RawSample, epoch: int) -> dict[str, Any]:
    if raw.image[-1] == 7:
        raise DataError("seven is broken", got="7")
    return load_sample(raw, epoch)


@pytest.fixture(scope="module", params=["rec", "tar"])
def stream(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SampleStream:
    folder: Path = tmp_path_factory.mktemp("stream")
    data = held("class", NUM)
    data.images = [image + bytes([index]) for index, image in enumerate(data.images)]
    if request.param == "rec":
        recordio.write(folder / "a.rec", data)
        return open_stream(str(folder / "a.rec"), "rec", OPTIONS)
    tar.write(folder / "a.tar", data, num_shards=4)
    return open_stream(str(folder / "a-{000000..000003}.tar"), "tar", OPTIONS)


def make(stream: SampleStream, num_workers: int = 0, load: Any = load_sample, **options: Any) -> StreamLoader:
    return StreamLoader(stream, load, BATCH, 1, num_workers=num_workers, shuffle_buffer=6, **options)


def test_workers_change_nothing(stream: SampleStream) -> None:
    one, two = list(make(stream)), list(make(stream, 2))
    assert len(one) == len(two) == len(make(stream)) == 5
    for a, b in zip(one, two, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in ("x", "number", "target"))
    assert one[0]["number"].shape == (BATCH,)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resumed_epoch_goes_on_with_the_next_batch(stream: SampleStream, num_workers: int) -> None:
    whole = make(stream)
    whole.set_epoch(3)
    expected = list(whole)
    interrupted = make(stream, num_workers)
    interrupted.set_epoch(3)
    batches = iter(interrupted)
    next(batches), next(batches)
    state = interrupted.state_dict()
    assert state == {"epoch": 3, "next_batch": 2}
    resumed = make(stream, num_workers)
    resumed.load_state_dict(state)
    rest = list(resumed)
    assert (len(resumed), len(rest)) == (5, 3)
    for wanted, got in zip(expected[2:], rest, strict=True):
        assert torch.equal(wanted["x"], got["x"])
        assert torch.equal(wanted["number"], got["number"])
    assert resumed.state_dict() == {"epoch": 3, "next_batch": 5}
    # The interrupted loader is used for another epoch: nothing of the old one is left.
    interrupted.set_epoch(4)
    whole.set_epoch(4)
    assert [b["number"].tolist() for b in interrupted] == [b["number"].tolist() for b in whole]


def test_ranks_have_as_many_batches_and_share_the_samples(stream: SampleStream) -> None:
    loaders = [make(stream, rank=rank, num_ranks=2, drop_last=False) for rank in range(2)]
    assert [len(loader) for loader in loaders] == [3, 3]
    numbers = [number for loader in loaders for batch in loader for number in batch["number"].tolist()]
    assert len(set(numbers)) == len(numbers) == NUM - 1


def test_in_order_and_whole(stream: SampleStream) -> None:
    loader = make(stream, drop_last=False, shuffle=False)
    assert [number for batch in loader for number in batch["number"].tolist()] == list(range(NUM))
    assert len(loader) == 6


@pytest.mark.parametrize("num_workers", [0, 1])
def test_data_errors_arrive_as_they_are(stream: SampleStream, num_workers: int) -> None:
    with pytest.raises(DataError, match="seven is broken") as caught:
        list(make(stream, num_workers, fail_at_seven, drop_last=False))
    assert caught.value.got == "7"
    del caught  # its frames hold the loader, whose workers end when it goes


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_shard_that_breaks_while_training(tmp_path: Path, num_workers: int) -> None:
    recordio.write(tmp_path / "a.rec", held("class", NUM))
    stream = open_stream(str(tmp_path / "a.rec"), "rec", OPTIONS)
    content = (tmp_path / "a.rec").read_bytes()
    (tmp_path / "a.rec").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"a\.rec is damaged or truncated"):
        list(make(stream, num_workers))


def test_no_thread_is_left_behind(stream: SampleStream) -> None:
    batches = iter(make(stream))
    next(batches)
    del batches
    list(make(stream))
    assert not [thread for thread in threading.enumerate() if thread.name == "lab-stream-reader"]


def test_global_generators_are_left_alone(stream: SampleStream) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    list(make(stream))
    assert torch.equal(torch.get_rng_state(), before)
