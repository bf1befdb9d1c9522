"""`mode: stream`: samples read in order from files, http and s3 addresses while training, in constant memory.

What SageMaker's pipe mode does: shards (RecordIO, tar, or augmented manifests, whose images are fetched line by line)
are read one after the other; nothing is copied to disk. An epoch is a function of (seed, epoch): the shards in random
order, then a bounded shuffle buffer. Ranks share an epoch without overlap and in equal parts, so that none waits for a
batch that another does not have: the at most `num_ranks` - 1 samples that do not divide sit out, other ones each epoch.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import cast

import numpy as np

from lab.core.errors import ConfigError, DataError
from lab.core.progress import say, warn
from lab.core.seeding import stream as random_stream
from lab.data.dataset import Kind, ReadOptions, Sample
from lab.data.formats import manifest, recordio, tar
from lab.data.raw import RawSample, decode_sample
from lab.data.remote import describe, open_address
from lab.data.shards import Shard, find_shards
from lab.data.window import WindowOrder

# Requests under way at a time for the images of a manifest, each of which is an address of its own.
FETCHERS, FETCH_AHEAD = 8, 32
_SHARD_BITS = 32


@dataclass(frozen=True)
class _Share:
    """The part of an epoch that one reader yields: positions first, first + step, ..., `num` of them."""

    first: int
    step: int
    num: int

    def ordinal(self, position: int) -> int | None:
        """Which of the share's samples is at `position`; None when it is another reader's."""
        ordinal, rest = divmod(position - self.first, self.step)
        return ordinal if rest == 0 and 0 <= ordinal < self.num else None

    def position(self, ordinal: int) -> int:
        return self.first + ordinal * self.step


class SampleStream:
    """Encoded samples of some shards. Made by `open_stream`; holds addresses and counts, never samples."""

    def __init__(
        self, shards: Sequence[Shard], file_format: str, options: ReadOptions, labels: Sequence[str], total: int
    ) -> None:
        self.shards = tuple(shards)
        self.file_format = file_format
        self.options = options
        self.labels = tuple(labels)
        self.num_samples = total

    @property
    def kind(self) -> Kind:
        return self.options.kind

    @property
    def source(self) -> str:
        more = f" and {len(self.shards) - 1} more" if len(self.shards) > 1 else ""
        return f"{self.shards[0].address}{more}"

    @cached_property
    def digest(self) -> str:
        """ "listing-" and a hash of names, sizes and versions: the shards themselves are read only by training."""
        parts = [describe(shard.address) for shard in self.shards]
        return f"listing-{hashlib.sha256(repr((self.labels, self.kind, parts)).encode()).hexdigest()}"

    @property
    def _counts(self) -> np.ndarray | None:
        counts = [shard.count for shard in self.shards]
        return None if None in counts else np.asarray(counts, np.int64)

    def decode(self, raw: RawSample) -> Sample:
        """Decode one of the stream's samples. Raises DataError naming it."""
        return decode_sample(raw, len(self.labels))

    def num_of_share(self, shard: tuple[int, int], *, shuffle: bool) -> int:
        """Samples that reader k of n, `shard` = (k, n), yields in an epoch."""
        return self._share(shard, shuffle=shuffle).num

    def samples(
        self,
        epoch: int,
        seed: int,
        *,
        shuffle: bool = True,
        shard: tuple[int, int] = (0, 1),
        skip: int = 0,
        buffer: int = 1024,
    ) -> Iterator[RawSample]:
        """The share of reader k of n, `shard` = (k, n), of one epoch, without its first `skip` samples.

        `buffer` bounds what is held at a time. Skipped samples are not decoded, and what can be sought over is not
        read. With `shuffle` False the order is that of the shards.

        Raises:
            DataError: a shard is missing, damaged or cannot be read any more, or the stream ends early.
        """
        share = self._share(shard, shuffle=shuffle)
        rng = random_stream(seed, "stream", epoch, *shard)
        order = WindowOrder(share.num, buffer if shuffle else 1, rng)
        order.skip(min(skip, share.num))
        shard_order = np.arange(len(self.shards))
        if shuffle:
            shard_order = random_stream(seed, "shards", epoch).permutation(len(self.shards))
        chosen = self._windowed(share, order, shard_order)
        return (
            _fetched(cast("Iterator[_Reference]", chosen))
            if self.file_format == "manifest"
            else cast("Iterator[RawSample]", chosen)
        )

    def _share(self, shard: tuple[int, int], *, shuffle: bool) -> _Share:
        """By ranges of whole shards where there are enough of known size, else every n-th sample."""
        rank, num_ranks = shard
        if not 0 <= rank < num_ranks:
            raise ConfigError("no such rank", got=f"rank {rank} of {num_ranks}", expected=f"0..{num_ranks - 1}")
        total = self.num_samples
        if shuffle and total < num_ranks:
            raise DataError(f"{self.source} has fewer samples than there are ranks", got=f"{total} for {num_ranks}")
        if self._counts is not None and len(self.shards) >= num_ranks:
            first, last = (total // num_ranks * number for number in (rank, rank + 1))
            if not shuffle:
                first, last = (total * number // num_ranks for number in (rank, rank + 1))
            return _Share(first, 1, last - first)
        num = total // num_ranks
        return _Share(rank, num_ranks, num if shuffle else num + (rank < total % num_ranks))

    def _windowed(self, share: _Share, order: WindowOrder, shard_order: np.ndarray) -> Iterator[_Item]:
        """Samples in the order of `order`, reading ahead only as far as the next one lies."""
        at_hand, first_unseen = order.at_hand, order.first_unseen
        held: dict[int, _Item] = {}
        start = share.position(min(at_hand, default=first_unseen))
        reader = self._read(shard_order, start)
        for wanted in order:
            while wanted not in held:
                position, item = next(reader, (0, None))
                if item is None:
                    raise self._too_short(share, len(held))
                ordinal = share.ordinal(position)
                # What was drawn before `skip` ended is not drawn again.
                if ordinal is not None and (ordinal >= first_unseen or ordinal in at_hand):
                    held[ordinal] = item
            yield held.pop(wanted)
        if share.num and share.position(share.num - 1) == self.num_samples - 1 and next(reader, None):
            warn(
                f"{self.source} has more samples than num_training_samples ({self.num_samples}) says: "
                "the rest sits out, other ones each epoch"
            )

    def _too_short(self, share: _Share, num_held: int) -> DataError:
        return DataError(
            f"{self.source} ended early",
            got=f"fewer than the expected samples ({num_held} still at hand)",
            expected=f"{self.num_samples} samples",
            hint="data.num_training_samples, index.json or the .idx files do not fit the shards",
        )

    def _read(self, shard_order: np.ndarray, start: int) -> Iterator[tuple[int, _Item]]:
        """(position in the epoch, sample) from `start` on, or from shortly before."""
        begin = 0
        for number in shard_order.tolist():
            shard = self.shards[number]
            if shard.count is not None and begin + shard.count <= start:
                begin += shard.count
                continue
            local = -1
            for item in self._read_shard(number, max(start - begin, 0)):
                local = item.index & ((1 << _SHARD_BITS) - 1)
                if local == shard.count:
                    self._check_count(shard, local + 1)
                yield begin + local, item
            self._check_count(shard, local + 1)
            begin += local + 1

    def _check_count(self, shard: Shard, found: int) -> None:
        if shard.count is not None and found != shard.count:
            raise DataError(
                f"{shard.address} has not the number of samples that its index says",
                got=f"{found} or more" if found > shard.count else found,
                expected=shard.count,
                hint="make the index again (.idx or index.json), or remove it",
            )

    def _read_shard(self, number: int, start: int) -> Iterator[_Item]:
        """The samples of one shard with their index in the stream, from sample `start` on where it can be sought."""
        shard, high = self.shards[number], number << _SHARD_BITS
        with open_address(shard.address) as file:
            if self.file_format == "manifest":
                base = manifest.base_of(shard.address, self.options)
                for index, line in enumerate(manifest.iterate_lines(file, shard.address, self.options)):
                    yield _Reference(line, base, high | index)
                return
            if self.file_format == "tar":
                samples = tar.iterate(file, shard.address, self.options)
            else:
                offset = int(shard.offsets[start]) if shard.offsets is not None else 0
                index = start if shard.offsets is not None else 0
                samples = recordio.iterate(file, shard.address, self.options, index=index, offset=offset)
            for raw in samples:
                yield replace(raw, index=high | raw.index)


@dataclass(frozen=True)
class _Reference:
    """A line of a manifest whose image is not fetched yet."""

    line: manifest.Line
    base: str
    index: int

    def load(self) -> RawSample:
        return self.line.load(self.base, self.index)


_Item = RawSample | _Reference


def _fetched(chosen: Iterator[_Reference]) -> Iterator[RawSample]:
    """The images of a manifest's lines, several requests at a time, in the lines' order."""
    with ThreadPoolExecutor(FETCHERS, "lab-fetch") as pool:
        waiting = deque(pool.submit(line.load) for line in islice(chosen, FETCH_AHEAD))
        try:
            while waiting:
                raw = waiting.popleft().result()
                waiting.extend(pool.submit(line.load) for line in islice(chosen, 1))
                yield raw
        finally:
            for future in waiting:
                future.cancel()


def open_stream(
    addresses: Sequence[str] | str, file_format: str, options: ReadOptions, num_samples: int | None = None
) -> SampleStream:
    """Open shards at file, http(s) or s3 addresses; patterns such as shards-{000..009}.tar are expanded.

    Samples are counted from .idx files, index.json or the manifest's lines where these exist, else `num_samples` is
    believed, else the shards are read once to count them.

    Raises:
        DataError: no shards, missing or damaged ones; class names unknown; `num_samples` does not fit the index.
    """
    shards, labels = find_shards(addresses, file_format, options)
    if any(shard.count is None for shard in shards) and num_samples is None:
        say(f"{shards[0].address}: counting samples in a pass over {len(shards)} shards")
        say("  data.num_training_samples, or an index (.idx, index.json) beside the shards, saves this pass")
        shards = [_counted(shard, file_format, options) for shard in shards]
    counts = [shard.count for shard in shards]
    total = num_samples if None in counts else sum(count or 0 for count in counts)
    assert total is not None
    if num_samples not in (None, total):
        raise DataError(
            f"{shards[0].address}: data.num_training_samples does not fit the data", got=num_samples, expected=total
        )
    if not total:
        raise DataError(f"{shards[0].address} holds no samples")
    return SampleStream(shards, file_format, options, labels, total)


def _counted(shard: Shard, file_format: str, options: ReadOptions) -> Shard:
    if shard.count is not None:
        return shard
    iterate = tar.iterate if file_format == "tar" else recordio.iterate
    with open_address(shard.address) as file:
        return Shard(shard.address, sum(1 for _ in iterate(file, shard.address, options)), None)
