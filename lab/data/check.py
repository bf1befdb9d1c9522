"""A scan of a whole data set: every sample is decoded, broken ones are listed with their reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from lab.core.errors import DataError
from lab.core.progress import track
from lab.data.dataset import ImageDataset, class_counts


@dataclass(frozen=True)
class CheckReport:
    """What `check` found; heights and widths are (smallest, largest) in pixels of the readable images."""

    source: str
    num_samples: int
    class_counts: dict[str, int]
    broken: tuple[tuple[str, str], ...]
    """(file or record, reason)"""
    heights: tuple[int, int] | None
    widths: tuple[int, int] | None
    channels: dict[int, int]
    """Channels -> number of images."""

    @property
    def ok(self) -> bool:
        return not self.broken

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "source": self.source,
            "ok": self.ok,
            "num_samples": self.num_samples,
            "class_counts": self.class_counts,
            "broken": [{"name": name, "reason": reason} for name, reason in self.broken],
            "heights": self.heights,
            "widths": self.widths,
            "channels": {str(count): number for count, number in self.channels.items()},
        }


def check(dataset: ImageDataset) -> CheckReport:
    """Decode every sample; never raises for a broken one, but lists it."""
    broken: list[tuple[str, str]] = []
    shapes: Counter[tuple[int, ...]] = Counter()
    for index in track(range(len(dataset)), "checking images", len(dataset)):
        try:
            shapes[dataset[index].image.shape] += 1
        except DataError as error:
            broken.append(
                (_name(dataset, index), f"{error.what}: {error.got}" if error.got is not None else error.what)
            )
    channels: Counter[int] = Counter()
    for shape, count in shapes.items():
        channels[shape[2]] += count
    return CheckReport(
        source=dataset.source,
        num_samples=len(dataset),
        class_counts=class_counts(dataset),
        broken=tuple(broken),
        heights=_range([shape[0] for shape in shapes]),
        widths=_range([shape[1] for shape in shapes]),
        channels=dict(sorted(channels.items())),
    )


def _name(dataset: ImageDataset, index: int) -> str:
    paths = getattr(dataset, "paths", None)
    return str(paths[index]) if paths is not None else f"{dataset.source}[{index}]"


def _range(values: list[int]) -> tuple[int, int] | None:
    return (min(values), max(values)) if values else None
