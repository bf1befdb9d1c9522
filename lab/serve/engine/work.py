"""A request's way through an executor thread: decode, run together with others, encode."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from lab.core.interfaces import Arrays
from lab.serve.engine.model import ServedModel


@dataclass(frozen=True)
class Parsed:
    """What a request asks of the model.

    Either `feed` (named arrays) or `inputs` (the task's own, with `options`). Requests with equal `key` may run
    together; None runs alone. `num_inputs` are the samples.
    """

    num_inputs: int
    key: Hashable | None
    feed: Mapping[str, np.ndarray] | None = None
    inputs: Sequence[Any] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """A response's body. `outputs` are the raw arrays, kept for shadow comparison."""

    body: bytes
    content_type: str
    headers: tuple[tuple[str, str], ...] = ()
    outputs: Mapping[str, np.ndarray] | None = None


class Work(Protocol):
    """A protocol's half of a request; both methods run in an executor thread."""

    def decode(self, model: ServedModel) -> Parsed:
        """Raises DataError and others that `protocols.errors` maps."""
        ...

    def encode(self, model: ServedModel, parsed: Parsed, predictions: Sequence[Any], outputs: Arrays) -> Answer:
        """`predictions` for inputs of the task, `outputs` for a feed."""
        ...


@dataclass(slots=True, eq=False)
class Times:
    """Seconds spent; `queue` from arrival until an executor took the request."""

    queue: float = 0.0
    preprocess: float = 0.0
    execute: float = 0.0
    postprocess: float = 0.0


@dataclass(slots=True, eq=False)
class Job:
    """One request in a variant's hands; `deadline_s` is on the clock of `time.perf_counter`."""

    work: Work
    future: asyncio.Future[Answer]
    arrived_s: float
    deadline_s: float
    times: Times = field(default_factory=Times)
    parsed: Parsed | None = None
    result: Answer | BaseException | None = None

    def expired(self) -> bool:
        return time.perf_counter() > self.deadline_s
