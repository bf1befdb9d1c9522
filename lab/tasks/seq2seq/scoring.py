"""Scores of found outputs: exact matches, token and sequence error rates, and sacrebleu's BLEU and chrF."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from lab.core.errors import DataError, MissingToolError
from lab.tasks.seq2seq.deploy import Preprocessing, vocabulary_of

SCORES = ("sequence_accuracy", "per", "wer", "bleu", "chrf")


class Labelled(Protocol):
    """What a sample must have: its right answers."""

    @property
    def label(self) -> tuple[str, ...]: ...


def edit_distance(found: Sequence[str], wanted: Sequence[str]) -> int:
    """The fewest insertions, deletions and substitutions of tokens (Levenshtein 1966)."""
    row = list(range(len(wanted) + 1))
    for above, token in enumerate(found, 1):
        diagonal, row[0] = row[0], above
        for column, other in enumerate(wanted, 1):
            diagonal, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, diagonal + (token != other))
    return row[-1]


def nearest_errors(found: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[int, int]:
    """(errors, tokens) of the reference with the lowest error rate."""
    pairs = [(edit_distance(found, reference), max(len(reference), 1)) for reference in references]
    return min(pairs, key=lambda pair: pair[0] / pair[1])


class Scorer:
    """Collects outputs and references of any number of samples.

    `per` is the errors of all samples over the tokens of their nearest references: the phoneme error rate where tokens
    are phones. `wer` is the share of samples that equal none of their references: the word error rate of
    grapheme-to-phoneme conversion, where a sample is a word. `sequence_accuracy` is 1 - wer. `bleu` and `chrf` are
    sacrebleu's, 0 to 100, of texts.
    """

    def __init__(self, labels: Sequence[str], preprocessing: Mapping[str, Any], scores: Sequence[str] = ()) -> None:
        self.names = tuple(scores) or SCORES
        self._vocabulary = vocabulary_of(tuple(labels))
        self._tokenizer = Preprocessing.of(preprocessing).target_tokenizer
        self.found: list[str] = []
        self.references: list[tuple[str, ...]] = []
        self.errors: list[tuple[int, int]] = []

    def update(self, outputs: Mapping[str, np.ndarray], samples: Sequence[Labelled]) -> None:
        """The best output of each sample. Raises DataError when counts differ."""
        if len(outputs["tokens"]) != len(samples):
            raise DataError("outputs and samples differ in number", got=f"{len(outputs['tokens'])} and {len(samples)}")
        for numbers, sample in zip(outputs["tokens"][:, 0], samples, strict=True):
            self.add(self._vocabulary.decode(numbers.tolist()), sample.label)

    def add(self, tokens: Sequence[str], references: Sequence[str]) -> None:
        """One sample: the tokens found, and the texts that are right."""
        self.found.append(self._tokenizer.join(tokens))
        self.references.append(tuple(references))
        self.errors.append(nearest_errors(tokens, [self._tokenizer.split(text) for text in references]))

    def compute(self) -> dict[str, float]:
        """The scores asked for. Raises DataError before the first sample, MissingToolError without sacrebleu."""
        if not self.found:
            raise DataError("there is nothing to score", got="no sample", expected="at least 1")
        errors, lengths = np.asarray(self.errors, np.int64).T
        wrong = float(np.mean(errors > 0))
        values = {"sequence_accuracy": 1 - wrong, "per": float(errors.sum() / lengths.sum()), "wer": wrong}
        for name in ("bleu", "chrf"):
            if name in self.names:
                values[name] = self._corpus_score(name)
        return {name: values[name] for name in self.names}

    def _corpus_score(self, name: str) -> float:
        try:
            from sacrebleu import BLEU, CHRF
        except ImportError as error:
            raise MissingToolError("BLEU and chrF need sacrebleu", hint="pip install 'lab[train]'") from error
        most = max(len(references) for references in self.references)
        # sacrebleu takes streams of references; None where a sample has no further one.
        streams = [[row[i] if i < len(row) else None for row in self.references] for i in range(most)]
        metric: Any = BLEU() if name == "bleu" else CHRF()
        return float(metric.corpus_score(self.found, streams).score)
