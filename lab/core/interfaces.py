"""Protocols through which siblings of layer 3 meet; `pipelines` hands one to another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np

from lab.core.signature import Signature

if TYPE_CHECKING:
    from lab.artifacts.manifest import Manifest

RunStatus = Literal["finished", "failed", "killed"]

Arrays = dict[str, np.ndarray]
Call = Callable[[Mapping[str, np.ndarray]], Arrays]
"""One function of a model: named arrays in, named arrays out."""
Loop = Callable[[Mapping[str, Call], Mapping[str, np.ndarray]], Arrays]
"""What makes a program of several functions: (functions by name, the program's inputs) -> the program's outputs."""


@runtime_checkable
class Runner(Protocol):
    """A model that can be called with named arrays. Not thread-safe: one per thread."""

    name: str
    signature: Signature

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once; inputs and outputs are checked against the signature."""
        ...

    def close(self) -> None:
        """Release the model; calling again does nothing."""
        ...


@runtime_checkable
class Tracker(Protocol):
    """Where a run's parameters, metrics and files go. No call may end the run because a server is down."""

    run_id: str

    def log_params(self, params: Mapping[str, object]) -> None: ...

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None: ...

    def log_artifact(self, path: Path, folder: str = "") -> None: ...

    def log_dataset(self, card: Mapping[str, Any]) -> None:
        """Name, digest, source and sizes of the data."""
        ...

    def register_model(self, *, name: str, folder: Path, manifest: Manifest) -> None:
        """Put the model of `folder` into the model registry, with its signature."""
        ...

    def link(self) -> str:
        """Where a person sees this run: an address or a command."""
        ...

    def set_tags(self, tags: Mapping[str, str]) -> None: ...

    def finish(self, status: RunStatus = "finished") -> None: ...
