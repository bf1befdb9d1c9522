"""What a data set of text pairs is: a source, and one or more targets that are right answers to it."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lab.core.errors import DataError
from lab.core.seeding import stream_seed


@dataclass(frozen=True)
class TextPair:
    """One sample: a source text, its targets (references, each of them right), and where it comes from."""

    input: str
    label: tuple[str, ...]
    name: str


class PairDataset:
    """Samples in a fixed order.

    Args:
        source: where they come from, for messages and manifests.
        group: per sample what must not be divided between splits, such as its file; by default its source text.
        num_skipped: samples left out by the reader because one side was empty.
    """

    def __init__(
        self, pairs: Sequence[TextPair], source: str, group: Sequence[str] | None = None, num_skipped: int = 0
    ) -> None:
        self._pairs = list(pairs)
        self.source = source
        self.num_skipped = num_skipped
        self._group = list(group) if group is not None else [pair.input for pair in self._pairs]

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> TextPair:
        return self._pairs[index]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all texts in their order."""
        state = hashlib.sha256()
        for pair in self._pairs:
            state.update("\0".join((pair.input, *pair.label, "")).encode())
        return state.hexdigest()

    def subset(self, indices: Sequence[int], part: str) -> PairDataset:
        """Some of the samples; `part` is added to the name of the source."""
        chosen = [self._pairs[index] for index in indices]
        return PairDataset(chosen, f"{self.source} ({part})", [self._group[index] for index in indices])

    def held_out(self, size: int | float, seed: int, part: str) -> tuple[PairDataset, PairDataset]:
        """(rest, `part`): a number, or a share below 1, of the groups; which ones depends on (seed, part, group) alone.

        Raises:
            DataError: nothing would be left on one side.
        """
        groups = sorted(set(self._group), key=lambda group: stream_seed(seed, part, group))
        count = round(size * len(groups)) if size < 1 else int(size)
        if not 0 < count < len(groups):
            raise DataError(
                f"{self.source} cannot be divided", got=f"{count} of {len(groups)} groups for {part}",
                hint=f"change data.{part}_size",
            )  # fmt: skip
        chosen = set(groups[:count])
        inside = [index for index, group in enumerate(self._group) if group in chosen]
        outside = [index for index, group in enumerate(self._group) if group not in chosen]
        return self.subset(outside, "rest"), self.subset(inside, part)


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file, plain or gzip (.gz), without their ends.

    Only line feeds end lines: `str.splitlines` would also split at characters that may stand inside a sentence.

    Raises:
        DataError: missing, not gzip, or not UTF-8; names the file.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines = content.decode("utf-8-sig").split("\n")
    except FileNotFoundError as error:
        raise DataError(f"there is no text file at {path}") from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read", got=error, expected="UTF-8 text, plain or gzip") from error
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def one_line(text: str) -> str:
    """The text with every run of white space, line ends among it, as one space."""
    return " ".join(text.split())
