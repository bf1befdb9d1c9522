"""Bundles on this machine that hold several instruction-set levels, and what its CPU picks of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lab.artifacts.manifest import Manifest
from lab.core import host
from lab.core.errors import LabError
from lab.runtime.levels import pick_level

PLACES = ((Path("runs"), "*/*/bundles/*/manifest.json"), (Path("bundles"), "*/manifest.json"))


def fat_bundles() -> Iterator[tuple[Path, str, bool]]:
    """(folder, what it holds and what is picked, whether it runs here) of those below `runs/` and `bundles/`."""
    for place, pattern in PLACES:
        for path in sorted(place.glob(pattern)):
            try:
                manifest = Manifest.load(path.parent, verify=False)
            except LabError:
                continue
            if manifest.levels:
                told, runs = _picked(manifest)
                yield path.parent, told, runs


def _picked(manifest: Manifest) -> tuple[str, bool]:
    level = pick_level(manifest)
    lacking = sorted(set(level.required_features) - host.cpu_features())
    picks = f"runs none: no {' '.join(lacking)}" if lacking else f"picks {level.mcpu}"
    return f"holds {', '.join(each.mcpu for each in manifest.levels)}; this CPU {picks}", not lacking
