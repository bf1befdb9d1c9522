"""Streams: every sample once over all ranks, resumable to the bit, bounded memory, from files, http and s3."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.core.errors import ConfigError, DataError
from lab.core.seeding import stream as random_stream
from lab.data import remote
from lab.data.dataset import ReadOptions
from lab.data.formats import manifest, recordio, tar
from lab.data.raw import RawSample
from lab.data.streaming import SampleStream, open_stream
from lab.data.window import WindowOrder
from tests.data.held import LABELS, Held, held
from tests.data.server import Server, serve

NUM = 23


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """23 samples as one .rec, three tar shards, two .rec shards, and a manifest."""
    folder = tmp_path_factory.mktemp("shards")
    data = held("class", NUM)
    # The image is what tells a sample: its bytes carry its number.
    data.images = [image + bytes([index]) for index, image in enumerate(data.images)]
    recordio.write(folder / "one.rec", data)
    tar.write(folder / "s.tar", data, num_shards=3)
    manifest.write(folder / "train.manifest", data)
    for number, part in enumerate((range(10), range(10, NUM))):
        some = Held("class", [data.images[i] for i in part], [data.annotations[i] for i in part], LABELS)
        recordio.write(folder / f"two-{number}.rec", some)
    return folder


@pytest.fixture
def server(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(remote, "BLOCK_BYTES", 4096)
    monkeypatch.setattr(remote, "BUFFER_BYTES", 4096)
    with serve(root.parent) as found:
        found.url += f"/{root.name}"
        yield found


OPTIONS = ReadOptions(labels=LABELS)
SOURCES = {
    "one.rec": "rec",
    "two-{0..1}.rec": "rec",
    "s-{000000..000002}.tar": "tar",
    "train.manifest": "manifest",
}
each_source = pytest.mark.parametrize(("name", "file_format"), SOURCES.items(), ids=SOURCES.keys())


def numbers(samples: Iterator[RawSample]) -> list[int]:
    return [raw.image[-1] for raw in samples]


def uncounted(found: SampleStream) -> SampleStream:
    """The same stream where nothing says how many samples a shard has."""
    shards = [type(shard)(shard.address, None, None) for shard in found.shards]
    return SampleStream(shards, found.file_format, found.options, found.labels, found.num_samples)


@each_source
def test_an_epoch_is_a_permutation_and_a_function_of_seed_and_epoch(root: Path, name: str, file_format: str) -> None:
    stream = open_stream(str(root / name), file_format, OPTIONS)
    assert (stream.num_samples, stream.labels, stream.kind) == (NUM, LABELS, "class")
    assert stream.digest.startswith("listing-")
    assert numbers(stream.samples(0, 1, shuffle=False)) == list(range(NUM))
    first = numbers(stream.samples(0, 1, buffer=8))
    assert sorted(first) == list(range(NUM))
    assert first == numbers(open_stream(str(root / name), file_format, OPTIONS).samples(0, 1, buffer=8))
    others = [numbers(stream.samples(epoch, seed, buffer=8)) for epoch, seed in ((1, 1), (0, 2))]
    assert first not in others
    raw = list(stream.samples(0, 1, buffer=8))
    assert len({sample.index for sample in raw}) == NUM
    assert stream.decode(raw[0]).label == raw[0].image[-1] % 3


@each_source
@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("num_ranks", [2, 3, 5])
def test_ranks_share_an_epoch(root: Path, name: str, file_format: str, counted: bool, num_ranks: int) -> None:
    stream = open_stream(str(root / name), file_format, OPTIONS)
    stream = stream if counted else uncounted(stream)
    left_out = set()
    for epoch in range(6):
        parts = [numbers(stream.samples(epoch, 1, shard=(rank, num_ranks), buffer=4)) for rank in range(num_ranks)]
        assert [len(part) for part in parts] == [NUM // num_ranks] * num_ranks
        assert [stream.num_of_share((0, num_ranks), shuffle=True)] * num_ranks == [len(part) for part in parts]
        seen = [number for part in parts for number in part]
        assert len(set(seen)) == len(seen)
        left_out |= set(range(NUM)) - set(seen)
    assert NUM % num_ranks <= len(left_out)
    parts = [numbers(stream.samples(0, 1, shuffle=False, shard=(rank, num_ranks))) for rank in range(num_ranks)]
    assert sorted(number for part in parts for number in part) == list(range(NUM))


@each_source
@pytest.mark.parametrize("counted", [True, False])
def test_resumed_at_any_place_the_rest_is_the_same(root: Path, name: str, file_format: str, counted: bool) -> None:
    stream = open_stream(str(root / name), file_format, OPTIONS)
    stream = stream if counted else uncounted(stream)
    for shard in ((0, 1), (1, 2)):
        whole = [(raw.index, raw.image) for raw in stream.samples(2, 5, shard=shard, buffer=6)]
        for skip in (0, 1, 7, len(whole) - 1, len(whole)):
            rest = [(raw.index, raw.image) for raw in stream.samples(2, 5, shard=shard, buffer=6, skip=skip)]
            assert rest == whole[skip:]


@given(st.integers(0, 60), st.integers(1, 20), st.integers(0, 2**31), st.data())
def test_window_order(num: int, size: int, seed: int, data: st.DataObject) -> None:
    order = list(WindowOrder(num, size, random_stream(seed, "a")))
    assert sorted(order) == list(range(num))
    assert all(found < place + size for place, found in enumerate(order))
    skip = data.draw(st.integers(0, num))
    resumed = WindowOrder(num, size, random_stream(seed, "a"))
    resumed.skip(skip)
    assert resumed.at_hand | set(range(resumed.first_unseen, num)) == set(order[skip:])
    assert list(resumed) == order[skip:]


@pytest.mark.parametrize("counted", [True, False])
def test_memory_is_bounded_by_the_buffer(root: Path, counted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = open_stream(str(root / "one.rec"), "rec", OPTIONS)
    stream = stream if counted else uncounted(stream)
    alive: list[weakref.ref[RawSample]] = []
    original = recordio.iterate

    def watched(*args: Any, **kwargs: Any) -> Iterator[RawSample]:
        for raw in original(*args, **kwargs):
            copy = Tracked(raw.image, raw.annotation, raw.name, raw.index)
            alive.append(weakref.ref(copy))
            yield copy

    class Tracked(RawSample):
        pass

    monkeypatch.setattr(recordio, "iterate", watched)
    highest, samples = 0, stream.samples(0, 1, buffer=5)
    for raw in samples:
        del raw
        highest = max(highest, sum(ref() is not None for ref in alive))
    assert len(alive) == NUM
    assert highest <= 5 + 2


@each_source
def test_over_http(server: Server, root: Path, name: str, file_format: str) -> None:
    local = open_stream(str(root / name), file_format, OPTIONS)
    stream = open_stream(f"{server.url}/{name}", file_format, OPTIONS)
    assert stream.num_samples == NUM
    expected = [(raw.image, raw.annotation, raw.index) for raw in local.samples(3, 1, buffer=8)]
    server.requests.clear()
    assert [(raw.image, raw.annotation, raw.index) for raw in stream.samples(3, 1, buffer=8)] == expected
    assert any(wanted for _, _, wanted in server.requests) or file_format == "manifest"
    assert stream.digest == open_stream(f"{server.url}/{name}", file_format, OPTIONS).digest


@each_source
@pytest.mark.parametrize("ranges", [True, False])
def test_broken_connections_go_on_at_the_byte_reached(
    server: Server, name: str, file_format: str, ranges: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    server.ranges = ranges
    stream = open_stream(f"{server.url}/{name}", file_format, OPTIONS)
    server.faults, server.good_gets = 3, int(ranges)
    assert sorted(numbers(stream.samples(0, 1, buffer=8))) == list(range(NUM))
    assert server.faults == 0
    assert "trying again" in capfd.readouterr().err


def test_too_many_broken_connections(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    stream = open_stream(f"{server.url}/one.rec", "rec", OPTIONS)
    server.faults = 1000
    with pytest.raises(DataError, match=r"one\.rec cannot be read") as caught:
        list(stream.samples(0, 1))
    assert "tries: 5" in str(caught.value)
    server.faults = 0
    with pytest.raises(DataError, match="cannot be opened"):
        open_stream(f"{server.url}/none-{{0..1}}.tar", "tar", OPTIONS)
    capfd.readouterr()


def test_a_resumed_remote_file_is_sought_not_read(server: Server) -> None:
    stream = open_stream(f"{server.url}/one.rec", "rec", OPTIONS)
    last = stream.shards[0].offsets[-1]  # type: ignore[index]
    server.requests.clear()
    assert len(list(stream.samples(0, 1, shuffle=False, skip=NUM - 1))) == 1
    ranges = [wanted for command, _, wanted in server.requests if command == "GET"]
    assert ranges
    assert all(int(str(wanted).removeprefix("bytes=").split("-")[0]) >= last for wanted in ranges)


@pytest.fixture
def s3(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The same server as an object store: fsspec finds endpoint and anonymity where users put them."""
    pytest.importorskip("s3fs")
    from fsspec.config import conf

    endpoint = server.url.rpartition("/")[0]
    monkeypatch.setitem(conf, "s3", {"anon": True, "endpoint_url": endpoint})
    return server


@pytest.mark.parametrize("name", ["two-{0..1}.rec", "s-{000000..000002}.tar", "train.manifest"])
def test_from_s3(s3: Server, root: Path, name: str) -> None:
    stream = open_stream(f"s3://{root.name}/{name}", SOURCES[name], OPTIONS)
    assert sorted(numbers(stream.samples(0, 1, buffer=8))) == list(range(NUM))
    assert any(path.startswith(f"/{root.name}/") for _, path, _ in s3.requests)


def test_broken_connections_to_s3(s3: Server, root: Path) -> None:
    stream = open_stream(f"s3://{root.name}/two-{{0..1}}.rec", "rec", OPTIONS)
    s3.faults, s3.good_gets = 2, 1
    assert sorted(numbers(stream.samples(0, 1, buffer=8))) == list(range(NUM))
    assert s3.faults == 0


def test_a_refused_request_is_not_tried_again(server: Server) -> None:
    server.refused = True
    with pytest.raises(DataError, match=r"two-0\.rec cannot be read") as caught:
        remote.fetch(f"{server.url}/two-0.rec")
    assert "403" in str(caught.value)
    assert "tries: 1" in str(caught.value)
    assert len(server.requests) == 1


def test_a_missing_object_on_s3(s3: Server, root: Path) -> None:
    with pytest.raises(DataError, match=r"s3://.*none\.manifest cannot be opened"):
        open_stream(f"s3://{root.name}/none.manifest", "manifest", OPTIONS)


def copied(root: Path, folder: Path, *names: str) -> Callable[[str], str]:
    for name in names:
        (folder / name).write_bytes((root / name).read_bytes())
    return lambda name: str(folder / name)


def test_how_samples_are_counted(root: Path, tmp_path: Path, server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    copied(root, tmp_path, "one.rec", "s-000000.tar")
    assert open_stream(str(tmp_path / "one.rec"), "rec", OPTIONS).num_samples == NUM
    assert open_stream(str(tmp_path / "s-000000.tar"), "tar", OPTIONS).num_samples == 7
    assert capfd.readouterr().err == ""
    copied(root, root.parent, "one.rec")
    elsewhere = f"{server.url.rpartition('/')[0]}/one.rec"
    assert open_stream(elsewhere, "rec", OPTIONS).num_samples == NUM
    assert "counting samples in a pass over 1 shards" in capfd.readouterr().err
    believed = open_stream(elsewhere, "rec", OPTIONS, num_samples=NUM)
    assert sorted(numbers(believed.samples(0, 1))) == list(range(NUM))
    assert capfd.readouterr().err == ""


def test_wrong_numbers_of_samples(
    root: Path, tmp_path: Path, server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match="num_training_samples does not fit"):
        open_stream(str(root / "one.rec"), "rec", OPTIONS, num_samples=5)
    copied(root, root.parent, "one.rec")
    elsewhere = f"{server.url.rpartition('/')[0]}/one.rec"
    with pytest.raises(DataError, match="ended early"):
        list(open_stream(elsewhere, "rec", OPTIONS, num_samples=NUM + 1).samples(0, 1))
    assert len(list(open_stream(elsewhere, "rec", OPTIONS, num_samples=NUM - 1).samples(0, 1))) == NUM - 1
    assert "has more samples than num_training_samples" in capfd.readouterr().err
    name = copied(root, tmp_path, "s-000000.tar", "index.json")
    index = tmp_path / "index.json"
    index.write_text(index.read_text().replace('"nsamples": 7', '"nsamples": 6'))
    with pytest.raises(DataError, match="not the number of samples that its index says"):
        list(open_stream(name("s-000000.tar"), "tar", OPTIONS).samples(0, 1, shuffle=False, skip=0))


def test_class_names(root: Path, tmp_path: Path) -> None:
    assert open_stream(str(root / "one.rec"), "rec", ReadOptions()).labels == LABELS
    assert open_stream(str(root / "s-{000000..000002}.tar"), "tar", ReadOptions()).labels == LABELS
    assert open_stream(str(root / "train.manifest"), "manifest", ReadOptions()).labels == LABELS
    name = copied(root, tmp_path, "one.rec")
    assert open_stream(name("one.rec"), "rec", ReadOptions(num_classes=3)).labels == ("0", "1", "2")
    with pytest.raises(DataError, match="does not say which classes"):
        open_stream(name("one.rec"), "rec", ReadOptions())


def test_a_truncated_shard_ends_the_epoch_with_its_name(root: Path, tmp_path: Path) -> None:
    name = copied(root, tmp_path, "one.rec", "one.idx")
    path = tmp_path / "one.rec"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"one\.rec is damaged or truncated at byte"):
        list(open_stream(name("one.rec"), "rec", OPTIONS).samples(0, 1))


def test_arguments(root: Path, tmp_path: Path) -> None:
    stream = open_stream([str(root / "two-0.rec"), str(root / "two-1.rec")], "rec", OPTIONS)
    with pytest.raises(ConfigError, match="no such rank"):
        stream.samples(0, 1, shard=(2, 2))
    with pytest.raises(DataError, match="fewer samples than there are ranks"):
        stream.num_of_share((0, 99), shuffle=True)
    with pytest.raises(DataError, match="no shards"):
        open_stream(str(tmp_path), "tar", OPTIONS)
    assert open_stream(str(root), "tar", OPTIONS).num_samples == NUM
    with pytest.raises(DataError, match=r"cannot be opened|there is no"):
        open_stream(str(tmp_path / "none.rec"), "rec", OPTIONS)
