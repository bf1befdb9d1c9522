"""Lightning without its side effects: hints for its own users stay off the terminal, unused timers cost nothing."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from lightning.pytorch.profilers import PassThroughProfiler

LOGGERS = tuple(f"lightning.{part}{end}" for part in ("pytorch", "fabric") for end in ("", ".utilities.rank_zero"))

# What each pattern would tell does not hold here: our loaders choose their workers and resume by themselves, a frozen
# backbone is in evaluation mode on purpose, and no process evaluates a sample twice. LeafSpec is Lightning's own use.
MESSAGES = (
    r".*does not have many workers.*",
    r".*Found \d+ module\(s\) in eval mode at the start of training.*",
    r".*smaller than the logging interval.*",
    r".*across ranks is zero, but local rank has zero length.*",
    r".*GPU available but not used.*",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    r"Checkpoint directory .* exists and is not empty.*",
)

_NOTHING = nullcontext()


class NoProfiler(PassThroughProfiler):  # type: ignore[misc]
    """Lightning enters a profiler some 80 times a step; its default builds a generator each time, this one nothing."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:
        return _NOTHING


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence, except warnings about the user's model and data; levels and filters come back after the run."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message in MESSAGES:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
