"""Vocabularies: tokens and their numbers, in the order and the JSON of SageMaker's seq2seq (S2S-I4).

The first four are <pad>, <unk>, <s> (begin) and </s> (end); then by descending frequency, ties in reverse alphabetical
order, as SageMaker's preparation script has them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from lab.artifacts.files import write_text
from lab.core.errors import DataError

PAD, UNKNOWN, BEGIN, END = range(4)
SPECIALS = ("<pad>", "<unk>", "<s>", "</s>")
MAX_SIZE = 50_000
"""S2S-I5: --num-words-source, --num-words-target."""


class Vocabulary:
    """Tokens by number. Raises DataError unless the first four are the special ones and all differ."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = tuple(tokens)
        if self.tokens[:4] != SPECIALS:
            raise DataError("not a vocabulary", got=list(self.tokens[:4]), expected=f"first {', '.join(SPECIALS)}")
        if len(self._numbers) != len(self.tokens):
            twice = [token for token, count in Counter(self.tokens).items() if count > 1]
            raise DataError("a token is in the vocabulary twice", got=twice[:5])

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens)}

    def __len__(self) -> int:
        return len(self.tokens)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.tokens == other.tokens

    def __hash__(self) -> int:
        return hash(self.tokens)

    @classmethod
    def build(cls, texts: Iterable[Sequence[str]], max_size: int = MAX_SIZE, min_count: int = 1) -> Vocabulary:
        """From tokenised texts: the `max_size` most frequent tokens that occur at least `min_count` times."""
        counts = Counter(token for tokens in texts for token in tokens)
        for special in SPECIALS:
            counts.pop(special, None)
        ranked = sorted(((count, token) for token, count in counts.items() if count >= min_count), reverse=True)
        return cls((*SPECIALS, *(token for _, token in ranked[:max_size])))

    def encode(self, tokens: Iterable[str]) -> np.ndarray:
        """Numbers, int64 [length]; tokens that are not known become <unk>."""
        numbers = self._numbers
        return np.fromiter((numbers.get(token, UNKNOWN) for token in tokens), np.int64)

    def unknown(self, tokens: Iterable[str]) -> list[str]:
        """The tokens that are not known, each once."""
        return list(dict.fromkeys(token for token in tokens if token not in self._numbers))

    def decode(self, numbers: Iterable[int]) -> list[str]:
        """Tokens up to the first </s>, without padding and <s>. Raises DataError for a number that is none."""
        tokens = []
        for number in numbers:
            if not 0 <= number < len(self.tokens):
                raise DataError("no such token", got=int(number), expected=f"0 .. {len(self.tokens) - 1}")
            if number == END:
                break
            if number not in (PAD, BEGIN):
                tokens.append(self.tokens[number])
        return tokens

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """From {"token": number} in JSON. Raises DataError when missing, not JSON, or with gaps in the numbers."""
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
            ordered = sorted(entries.items(), key=lambda item: item[1])
            fits = [number for _, number in ordered] == list(range(len(ordered)))
        except FileNotFoundError as error:
            raise DataError(f"there is no vocabulary at {path}") from error
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise DataError(f"{path} is no vocabulary", got=error, expected='JSON: {"token": number, ...}') from error
        if not fits:
            raise DataError(f"{path}: the numbers have gaps", expected=f"0 .. {len(ordered) - 1}, each once")
        return cls([token for token, _ in ordered])

    def save(self, path: Path) -> None:
        """Write {"token": number}: UTF-8, indent 4 (S2S-I4). Raises StorageError."""
        entries = {token: number for number, token in enumerate(self.tokens)}
        write_text(path, json.dumps(entries, indent=4, ensure_ascii=False))
