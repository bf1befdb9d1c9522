"""Progress bars and status lines for people, on standard error so that standard output stays for results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
_quiet = False


def set_quiet(quiet: bool) -> None:
    """Turn bars and status lines off (`--json`, `--quiet`)."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Whether bars and status lines are off."""
    return _quiet


def say(message: str) -> None:
    """Print one status line to standard error."""
    if not _quiet:
        print(message, file=sys.stderr, flush=True)


def warn(message: str) -> None:
    """Print one warning to standard error; never silenced, because a fallback must not be silent."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Iterate with a progress bar where standard error is a terminal."""
    if _quiet or not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track as rich_track

    yield from rich_track(items, description=description, total=total, console=Console(stderr=True), transient=True)


@contextmanager
def bar(description: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
    """A bar moved by hand: yields `advance(amount)`. `total=None` shows a spinner."""
    if _quiet or not sys.stderr.isatty():
        yield lambda amount: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        job = progress.add_task(description, total=total)
        yield lambda amount: progress.advance(job, amount)
