"""Tab-separated text: source, target and, where there are more right answers, further targets."""

from __future__ import annotations

from pathlib import Path

from lab.artifacts.files import write_text
from lab.core.errors import DataError
from lab.data.text.pairs import PairDataset, TextPair, one_line, read_lines


def read(path: Path) -> PairDataset:
    """Lines of a .tsv or .tsv.gz file without a header; those with a blank source or target are left out.

    Raises:
        DataError: missing, not UTF-8, or a line that is not blank has no tab.
    """
    pairs, num_skipped = [], 0
    for number, line in enumerate(read_lines(path), 1):
        source, *targets = (cell.strip() for cell in line.split("\t"))
        if source and not targets:
            raise DataError(f"{path}:{number} has one column", got=repr(line[:80]), expected="source TAB target")
        targets = [target for target in targets if target]
        if source and targets:
            pairs.append(TextPair(source, tuple(targets), f"{path}:{number}"))
        else:
            num_skipped += 1
    return PairDataset(pairs, str(path), num_skipped=num_skipped)


def write(path: Path, dataset: PairDataset) -> None:
    """One line per source, with all its targets. Raises StorageError."""
    pairs = (dataset[index] for index in range(len(dataset)))
    write_text(path, "".join("\t".join(map(one_line, (pair.input, *pair.label))) + "\n" for pair in pairs))
