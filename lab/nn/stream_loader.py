"""Batches of a stream: read by a thread of this process, decoded by worker processes.

Samples reach the workers as encoded bytes, so that their order does not depend on the number of workers, every shard is
opened by one reader per rank, and the shuffle buffer exists once.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from functools import partial
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader

from lab.config.data import DataConfig
from lab.config.run import RunConfig
from lab.nn.loaders import Batch, EpochPosition, LoadedSamples, collate, decoded, pins_memory

READ_AHEAD_BATCHES = 4
"""Encoded batches that the reading thread is ahead of the workers."""
_WAIT_S = 0.1


Raw = TypeVar("Raw")
Raw_co = TypeVar("Raw_co", covariant=True)
"""An encoded sample (`lab.data.raw.RawSample`); picklable."""


class Stream(Protocol[Raw_co]):
    """What a `StreamLoader` needs of `lab.data.streaming.SampleStream`."""

    def num_of_share(self, shard: tuple[int, int], *, shuffle: bool) -> int: ...

    def samples(
        self, epoch: int, seed: int, *, shuffle: bool, shard: tuple[int, int], skip: int, buffer: int
    ) -> Iterator[Raw_co]: ...


Batches = Generator[list[tuple[Any, int]], None, None]


class StreamLoader(EpochPosition, Generic[Raw]):
    """`lab.nn.learning.ResumableLoader` over a stream; each rank has the same number of batches.

    `load(raw, epoch)` decodes and augments; it must draw its randomness from (epoch, raw.index) alone. Resuming in the
    middle of an epoch reads past what was seen, without decoding it.
    """

    def __init__(
        self,
        stream: Stream[Raw],
        load: Callable[[Raw, int], dict[str, Any]],
        batch_size: int,
        seed: int,
        *,
        num_workers: int,
        rank: int = 0,
        num_ranks: int = 1,
        shuffle_buffer: int = 1024,
        drop_last: bool = True,
        shuffle: bool = True,
        pin_memory: bool = False,
    ) -> None:
        self._shard = (rank, num_ranks)
        super().__init__(stream.num_of_share(self._shard, shuffle=shuffle), batch_size, drop_last=drop_last)
        self.stream = stream
        self.seed = seed
        self.shuffle = shuffle
        self.shuffle_buffer = shuffle_buffer
        self._keys = _Keys()
        self._loader: DataLoader[Any] = DataLoader(
            LoadedSamples(load),
            batch_sampler=self._keys,
            num_workers=num_workers,
            collate_fn=collate,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            generator=torch.Generator(),  # else each epoch would draw from the global one
        )

    def _batches_from(self, start: int) -> Iterator[Batch]:
        read = partial(
            self.stream.samples,
            self.epoch,
            self.seed,
            shuffle=self.shuffle,
            shard=self._shard,
            skip=start * self.batch_size,
            buffer=self.shuffle_buffer,
        )
        # Not a method of this loader: in a cycle of references the collector would close the workers' queues before
        # they are told to stop, and wait for each in vain.
        self._keys.batches = partial(_encoded, read, self.epoch, self.batch_size, len(self) - start)
        try:
            yield from decoded(self._loader)
        finally:
            self._keys.close()


def training_stream(
    stream: Stream[Raw],
    load: Callable[[Raw, int], dict[str, Any]],
    config: RunConfig,
    data: DataConfig,
    *,
    rank: int,
    num_ranks: int,
) -> StreamLoader[Raw]:
    """The loader of a task's training data with mode stream, as its configuration says."""
    return StreamLoader(
        stream,
        load,
        config.train.batch_size,
        config.seed,
        num_workers=config.train.num_workers,
        rank=rank,
        num_ranks=num_ranks,
        shuffle_buffer=data.shuffle_buffer,
        pin_memory=pins_memory(config.train),
    )


def _encoded(read: Callable[[], Iterator[Any]], epoch: int, batch_size: int, num_batches: int) -> Batches:
    samples = read()
    for _ in range(num_batches):
        yield [(raw, epoch) for raw in islice(samples, batch_size)]


class _Keys:
    """The batches to decode; a DataLoader takes them from here in the main process and hands them to its workers."""

    def __init__(self) -> None:
        self.batches: Callable[[], Batches] = _nothing
        self._open: Batches | None = None

    def __iter__(self) -> Iterator[list[tuple[Any, int]]]:
        self.close()
        self._open = _read_ahead(self.batches())
        return iter(self._open)

    def close(self) -> None:
        """Stop the reading thread of an epoch that is over or was left."""
        if self._open is not None:
            self._open.close()
            self._open = None


def _nothing() -> Batches:
    yield from ()


_Item = list[tuple[Any, int]] | BaseException | None


def _read_ahead(source: Batches) -> Batches:
    """`source`, run by a thread that is READ_AHEAD_BATCHES ahead; its errors are raised here."""
    items: queue.Queue[_Item] = queue.Queue(READ_AHEAD_BATCHES)
    stop = threading.Event()

    def put(item: _Item) -> bool:
        while not stop.is_set():
            try:
                items.put(item, timeout=_WAIT_S)
                return True
            except queue.Full:
                continue
        return False

    def read() -> None:
        try:
            for batch in source:
                if not put(batch):
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits for the batches
            put(error)
        finally:
            source.close()

    thread = threading.Thread(target=read, name="lab-stream-reader", daemon=True)
    thread.start()
    try:
        while (item := items.get()) is not None:
            if isinstance(item, BaseException):
                try:
                    raise item
                finally:
                    del item  # see `lab.nn.loaders.decoded`
            yield item
    finally:
        stop.set()
        thread.join()
