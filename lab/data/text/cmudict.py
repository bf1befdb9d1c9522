"""The CMU Pronouncing Dictionary: a word and its phones per line, further pronunciations as word(2), word(3).

    aalborg AO1 L B AO0 R G # place, danish
    aalborg(2) AA1 L B AA0 R G

Digits at the end of a vowel are its stress: 0 none, 1 primary, 2 secondary. Published results of grapheme-to-phoneme
conversion (Bisani and Ney 2008; Yao and Zweig 2015) are of phones without stress.
Format: cmusphinx/cmudict, README.
"""

from __future__ import annotations

import re
from pathlib import Path

from lab.artifacts.files import write_text
from lab.core.errors import DataError
from lab.data.text.pairs import PairDataset, TextPair, read_lines

_ENTRY = re.compile(r"(?P<word>\S+?)(\((?P<number>\d+)\))?\s+(?P<phones>[A-Z0-9 ]+?)\s*(#.*)?")


def read(path: Path, *, stress: bool = False) -> PairDataset:
    """Words with all their pronunciations, in the file's order; comment lines (;;;) are passed over.

    Without `stress`, pronunciations that differ in nothing else become one.

    Raises:
        DataError: missing, not UTF-8, or a line that is no entry.
    """
    found: dict[str, dict[str, None]] = {}
    lines: dict[str, int] = {}
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip() or line.startswith(";;;"):
            continue
        entry = _ENTRY.fullmatch(line)
        if entry is None:
            raise DataError(f"{path}:{number} is no entry", got=repr(line[:80]), expected="word PHONE PHONE ...")
        phones = entry["phones"] if stress else re.sub(r"(?<=[A-Z])\d", "", entry["phones"])
        found.setdefault(entry["word"].lower(), {})[" ".join(phones.split())] = None
        lines.setdefault(entry["word"].lower(), number)
    pairs = [TextPair(word, tuple(phones), f"{path}:{lines[word]}") for word, phones in found.items()]
    return PairDataset(pairs, str(path))


def write(path: Path, dataset: PairDataset) -> None:
    """One line per pronunciation. Raises StorageError, or DataError for a word with white space."""
    rows = []
    for index in range(len(dataset)):
        pair = dataset[index]
        if len(pair.input.split()) != 1:
            raise DataError("a dictionary has one word per entry", got=repr(pair.input[:80]))
        for number, phones in enumerate(pair.label, 1):
            rows.append(f"{pair.input}{f'({number})' if number > 1 else ''} {phones}\n")
    write_text(path, "".join(rows))
