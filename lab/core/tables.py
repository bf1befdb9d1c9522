"""Explicit tables of names whose entries are imported only when one is chosen."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any

from lab.core.errors import ConfigError


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to `name`, or None when none is close."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


class LazyTable(Mapping[str, Any]):
    """Name -> "module:attribute", resolved on look-up.

    Listing the names imports nothing. An unknown name raises ConfigError with every name and the nearest one.
    """

    def __init__(self, what: str, entries: Mapping[str, str]) -> None:
        self.what = what
        self.entries = dict(entries)

    def __getitem__(self, name: str) -> Any:
        if name not in self.entries:
            close = nearest(name, self.entries)
            raise ConfigError(
                f"unknown {self.what} '{name}'",
                expected=", ".join(self.entries),
                hint=f"did you mean '{close}'?" if close else None,
            )
        module, _, attribute = self.entries[name].partition(":")
        loaded = import_module(module)
        return getattr(loaded, attribute) if attribute else loaded

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)
