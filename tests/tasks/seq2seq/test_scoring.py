"""Scores against sacrebleu, torchmetrics and counting by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.text import edit_distance as reference_distance

from lab.core.errors import DataError
from lab.data.text.tokenizers import Tokenizer
from lab.data.text.vocabulary import SPECIALS
from lab.tasks.seq2seq import deploy
from lab.tasks.seq2seq.scoring import Scorer, edit_distance, nearest_errors

LABELS = (*SPECIALS, "the", "cat", "sat", "on", "mat", "dog")
WORD: dict[str, Any] = Tokenizer("word").to_dict()
PREPROCESSING = deploy.Preprocessing(WORD, WORD, LABELS, 20, 20).to_dict()
TEXTS = st.text("abc", max_size=8)


@given(first=TEXTS, second=TEXTS)
def test_edit_distance_is_that_of_torchmetrics(first: str, second: str) -> None:
    expected = int(reference_distance([first], [second], reduction="sum")) if first or second else 0
    assert edit_distance(list(first), list(second)) == expected == edit_distance(list(second), list(first))


def test_the_nearest_reference_counts() -> None:
    assert nearest_errors(["a", "b"], [["a", "c", "d"], ["a", "b", "b"], []]) == (1, 3)


def scorer_of(*rows: tuple[str, tuple[str, ...]], scores: tuple[str, ...] = ()) -> Scorer:
    found: Scorer = deploy.scorer(LABELS, PREPROCESSING, scores=scores)
    for text, references in rows:
        found.add(text.split(), references)
    return found


def test_error_rates_are_those_counted_by_hand() -> None:
    found = scorer_of(
        ("the cat sat", ("the cat sat",)), ("the dog", ("the cat sat on", "the mat")), ("mat", ("cat on mat",))
    ).compute()
    assert found["per"] == pytest.approx((0 + 1 + 2) / (3 + 2 + 3))
    assert (found["wer"], found["sequence_accuracy"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))


def test_bleu_and_chrf_are_sacrebleus_with_several_references() -> None:
    rows = [
        ("the cat sat on the mat", ("the cat sat on a mat", "a cat sat")),
        ("the dog sat", ("the dog sat on the mat",)),
    ]
    found = scorer_of(*rows, scores=("bleu", "chrf")).compute()
    streams = [[rows[0][1][0], rows[1][1][0]], [rows[0][1][1], None]]
    hypotheses = [text for text, _ in rows]
    assert found == {
        "bleu": pytest.approx(sacrebleu.corpus_bleu(hypotheses, streams).score),
        "chrf": pytest.approx(sacrebleu.corpus_chrf(hypotheses, streams).score),
    }
    assert 0 < found["bleu"] < 100


def test_nothing_cannot_be_scored_and_counts_must_agree() -> None:
    with pytest.raises(DataError, match="nothing to score"):
        scorer_of().compute()
    with pytest.raises(DataError, match="differ in number"):
        scorer_of().update({"tokens": np.zeros((2, 1, 3), np.int64)}, [])
