"""The memory that supervisor and workers share: weights, counters, histograms and a ring of observations per worker.

One anonymous file (memfd), mapped by every process. Each cell has one writer, so that nothing is locked, and a worker
that is killed loses no count: its row stays, and the worker that takes its place goes on counting in it.

    header     version, checksum
    weights    one float64 per slot; a checksum tells a reader that caught a change half-way
    counters   int64 [workers, slots, columns]
    rings      per worker: head, tail, dropped, records

A *slot* is a variant's place. Slot 0 counts what never reached a variant.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NUM_SLOTS = 64
UNROUTED = 0
RING_CAPACITY = 8192

CODES = (200, 202, 400, 401, 403, 404, 405, 408, 413, 415, 422, 424, 429, 431, 500, 503, 504)
PROTOCOLS = ("sagemaker", "container", "oip", "control", "other")
REASONS = ("queue_full", "deadline", "too_large", "auth", "draining")
ASSIGNMENTS = ("weight", "sticky", "target", "fallback", "shadow")
STAGES = ("request", "queue", "preprocess", "execute", "postprocess", "overhead")
COUNTS = ("inputs", "executions", "shadow_compared", "shadow_dropped", "shadow_mismatch", "captured", "capture_dropped")
GAUGES = ("queue_depth", "in_flight", "ready")
STATUSES = ("ok", "client_error", "model_error", "rejected")

BOUNDS_S = tuple(0.25e-3 * 2 ** (step / 2) for step in range(37))
"""Upper bounds of the latency histograms: 0.25 ms to 65 s, two to an octave."""
BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128)
_LATENCY_CELLS = len(BOUNDS_S) + 2  # one for what is longer, one for the sum in nanoseconds
_BATCH_CELLS = len(BATCH_BOUNDS) + 2


def _columns() -> tuple[dict[str, int], int]:
    names = [f"requests.{protocol}.{code}" for protocol in PROTOCOLS for code in CODES]
    names += [f"rejected.{reason}" for reason in REASONS]
    names += [f"assigned.{reason}" for reason in ASSIGNMENTS]
    names += [*COUNTS, *GAUGES]
    columns = {name: place for place, name in enumerate(names)}
    end = len(names)
    for stage in STAGES:
        columns[f"stage.{stage}"], end = end, end + _LATENCY_CELLS
    columns["batch"], end = end, end + _BATCH_CELLS
    return columns, end


COLUMNS, NUM_COLUMNS = _columns()
_FIRST_STAGE = COLUMNS["stage.request"]
_RECORD = struct.Struct("<ddQqiBBBx")  # the fields of RECORD_TYPE
RECORD_TYPE = np.dtype(
    [("time_s", "<f8"), ("latency_ms", "<f8"), ("unit_hash", "<u8"), ("version", "<i8"), ("slot", "<i4"),
     ("status", "u1"), ("pinned", "u1"), ("sticky", "u1"), ("_", "V1")]
)  # fmt: skip
_WORD = 8
_VERSION, _CHECKSUM, _HEADER_WORDS = 0, 1, 8
_RING_HEAD, _RING_TAIL, _RING_DROPPED, _RING_HEADER = 0, 1, 2, 8


@dataclass(frozen=True)
class Layout:
    """Where everything is, in words of 8 bytes, for a number of workers."""

    num_workers: int

    @property
    def weights(self) -> int:
        return _HEADER_WORDS

    @property
    def counters(self) -> int:
        return self.weights + NUM_SLOTS

    @property
    def rings(self) -> int:
        return self.counters + self.num_workers * NUM_SLOTS * NUM_COLUMNS

    @property
    def ring_words(self) -> int:
        return _RING_HEADER + RING_CAPACITY * _RECORD.size // _WORD

    @property
    def size_bytes(self) -> int:
        return (self.rings + self.num_workers * self.ring_words) * _WORD


class Slab:
    """A view of the shared memory; `create` makes one, `attach` opens it in a worker by its descriptor."""

    def __init__(self, descriptor: int, num_workers: int) -> None:
        self.descriptor = descriptor
        self.layout = Layout(num_workers)
        self._map = mmap.mmap(descriptor, self.layout.size_bytes)
        self.words = memoryview(self._map).cast("q")
        self._weights = np.frombuffer(self._map, np.float64, NUM_SLOTS, self.layout.weights * _WORD)
        shape = (num_workers, NUM_SLOTS, NUM_COLUMNS)
        flat = np.frombuffer(self._map, np.int64, int(np.prod(shape)), self.layout.counters * _WORD)
        self.counters: np.ndarray = flat.reshape(shape)

    @classmethod
    def create(cls, num_workers: int) -> Slab:
        """All zero. Linux only."""
        descriptor = os.memfd_create("lab-serve")
        os.ftruncate(descriptor, Layout(num_workers).size_bytes)
        return cls(descriptor, num_workers)

    @property
    def version(self) -> int:
        """Changes with the weights."""
        return self.words[_VERSION]

    def set_weights(self, weights: dict[int, float]) -> None:
        """Supervisor only: change the weights of some slots at once."""
        for slot, weight in weights.items():
            self._weights[slot] = weight
        self.words[_VERSION] += 1
        self.words[_CHECKSUM] = _checksum(self.words[_VERSION], self._weights.tobytes())

    def weights(self) -> np.ndarray | None:
        """Float64 [slots]; None when a change is under way: ask again, and keep the old ones until then."""
        version, found = self.words[_VERSION], self._weights.copy()
        return found if self.words[_CHECKSUM] == _checksum(version, found.tobytes()) else None

    def clear_slot(self, slot: int) -> None:
        """Supervisor only, while no worker serves the slot: its counts start anew."""
        self.counters[:, slot, :] = 0

    def clear_gauges(self, worker: int) -> None:
        """Supervisor only, after a worker has died: nothing waits or runs there."""
        for gauge in GAUGES:
            self.counters[worker, :, COLUMNS[gauge]] = 0

    def ring(self, worker: int) -> Ring:
        start = (self.layout.rings + worker * self.layout.ring_words) * _WORD
        return Ring(memoryview(self._map)[start : start + self.layout.ring_words * _WORD])


def _checksum(version: int, weights: bytes) -> int:
    return zlib.crc32(weights, version & 0xFFFF_FFFF)


class Ring:
    """Observations of one worker, in order: the worker puts, the supervisor takes; a full one drops and counts."""

    def __init__(self, memory: memoryview) -> None:
        self._words = memory[: _RING_HEADER * _WORD].cast("q")
        self._bytes = memory[_RING_HEADER * _WORD :]
        self._records = np.frombuffer(self._bytes, RECORD_TYPE)

    def put(self, *record: float | int) -> None:
        """Worker only: the fields of `RECORD_TYPE` in their order; `version` is that of the weights at assignment."""
        tail = self._words[_RING_TAIL]
        if tail - self._words[_RING_HEAD] >= RING_CAPACITY:
            self._words[_RING_DROPPED] += 1
            return
        place = (tail % RING_CAPACITY) * _RECORD.size
        _RECORD.pack_into(self._bytes, place, *record)
        self._words[_RING_TAIL] = tail + 1

    def take(self) -> np.ndarray:
        """Supervisor only: records (`RECORD_TYPE`) since the last call."""
        head, tail = self._words[_RING_HEAD], self._words[_RING_TAIL]
        places = np.arange(head, tail) % RING_CAPACITY
        taken = self._records[places].copy()
        self._words[_RING_HEAD] = tail
        return taken

    @property
    def num_dropped(self) -> int:
        return self._words[_RING_DROPPED]


class Meter:
    """A worker's cells of one slot."""

    def __init__(self, slab: Slab, worker: int, slot: int) -> None:
        start = slab.layout.counters + (worker * NUM_SLOTS + slot) * NUM_COLUMNS
        self._cells = slab.words[start : start + NUM_COLUMNS]
        self.slot = slot

    def add(self, name: str, amount: int = 1) -> None:
        """Count, or move a gauge."""
        self._cells[COLUMNS[name]] += amount

    def set(self, name: str, value: int) -> None:
        self._cells[COLUMNS[name]] = value

    def request(self, protocol: str, code: int) -> None:
        """One answered request; a code without a column counts as its class's first."""
        known = code if code in _KNOWN_CODES else 500 if code >= 500 else 400
        self._cells[COLUMNS[f"requests.{protocol}.{known}"]] += 1

    def stages(self, seconds: Sequence[float]) -> None:
        """One request's time in each of `STAGES`, in that order."""
        place = _FIRST_STAGE
        for value in seconds:
            self._cells[place + bisect_left(BOUNDS_S, value)] += 1
            self._cells[place + _LATENCY_CELLS - 1] += int(value * 1e9)
            place += _LATENCY_CELLS

    def batch(self, size: int) -> None:
        """One execution of `size` inputs."""
        place = COLUMNS["batch"]
        self._cells[place + bisect_left(BATCH_BOUNDS, size)] += 1
        self._cells[place + _BATCH_CELLS - 1] += size


_KNOWN_CODES = frozenset(CODES)


@dataclass(frozen=True)
class Histogram:
    """Counts per bucket, not cumulative, the last for what is above every bound; `total` in the bounds' unit."""

    bounds: tuple[float, ...]
    counts: np.ndarray
    total: float

    @property
    def count(self) -> int:
        return int(self.counts.sum())

    def quantile(self, q: float) -> float:
        """Interpolated within its bucket; NaN when nothing was counted."""
        if not self.count:
            return float("nan")
        wanted, before = q * self.count, np.concatenate([[0], np.cumsum(self.counts)])
        bucket = min(int(np.searchsorted(before[1:], wanted)), len(self.bounds) - 1)
        low = self.bounds[bucket - 1] if bucket else 0.0
        inside = (wanted - before[bucket]) / max(1, self.counts[bucket])
        return float(low + (self.bounds[bucket] - low) * min(1.0, inside))

    def __sub__(self, earlier: Histogram) -> Histogram:
        return Histogram(self.bounds, self.counts - earlier.counts, self.total - earlier.total)


def stage_histogram(row: np.ndarray, stage: str) -> Histogram:
    """Seconds in one of `STAGES`, from a slot's columns (of one worker, or summed over workers)."""
    start = COLUMNS[f"stage.{stage}"]
    cells = row[start : start + _LATENCY_CELLS]
    return Histogram(BOUNDS_S, cells[:-1].copy(), float(cells[-1]) / 1e9)


def batch_histogram(row: np.ndarray) -> Histogram:
    """Inputs per execution."""
    start = COLUMNS["batch"]
    cells = row[start : start + _BATCH_CELLS]
    return Histogram(tuple(float(bound) for bound in BATCH_BOUNDS), cells[:-1].copy(), float(cells[-1]))
