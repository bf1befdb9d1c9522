"""Parallel text: two files of equal length, line i of one being the translation of line i of the other."""

from __future__ import annotations

from pathlib import Path

from lab.artifacts.files import write_text
from lab.core.errors import DataError
from lab.data.text.pairs import PairDataset, TextPair, one_line, read_lines


def read(path: Path, target: Path) -> PairDataset:
    """Lines of `path` with those of `target`, plain or .gz; pairs with a blank side are left out (S2S-I5).

    Raises:
        DataError: a file is missing or not UTF-8, or their numbers of lines differ.
    """
    sources, targets = read_lines(path), read_lines(target)
    if len(sources) != len(targets):
        raise DataError(
            "parallel files differ in length", got=f"{path}: {len(sources)} lines, {target}: {len(targets)} lines"
        )
    numbered = enumerate(zip(sources, targets, strict=True), 1)
    pairs = [TextPair(s.strip(), (t.strip(),), f"{path}:{n}") for n, (s, t) in numbered if s.strip() and t.strip()]
    return PairDataset(pairs, str(path), num_skipped=len(sources) - len(pairs))


def write(path: Path, target: Path, dataset: PairDataset) -> None:
    """One line per source and target: a source with several targets is written as often. Raises StorageError."""
    rows = [
        (one_line(pair.input), one_line(label))
        for pair in (dataset[index] for index in range(len(dataset)))
        for label in pair.label
    ]
    write_text(path, "".join(f"{source}\n" for source, _ in rows))
    write_text(target, "".join(f"{label}\n" for _, label in rows))
