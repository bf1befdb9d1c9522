"""A tracker that keeps nothing: `tracking.enabled: false`, ranks other than the first, tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.core.interfaces import RunStatus

if TYPE_CHECKING:
    from lab.artifacts.manifest import Manifest


class NullTracker:
    """See `lab.core.interfaces.Tracker`."""

    run_id = ""

    def log_params(self, params: Mapping[str, object]) -> None:
        """Nothing."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Nothing."""

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Nothing."""

    def log_dataset(self, card: Mapping[str, Any]) -> None:
        """Nothing."""

    def register_model(self, *, name: str, folder: Path, manifest: Manifest) -> None:
        """Nothing."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Nothing."""

    def link(self) -> str:
        return "not tracked (tracking.enabled is false)"

    def finish(self, status: RunStatus = "finished") -> None:
        """Nothing."""
