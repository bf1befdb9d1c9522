"""Vocabularies in SageMaker's order and JSON, and tokenizers there and back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.core.errors import ArtifactError, DataError
from lab.data.text.tokenizers import Tokenizer, train_sentencepiece
from lab.data.text.vocabulary import SPECIALS, Vocabulary

SENTENCES = [
    f"the {noun} sees the {other} und Öl {number}"
    for number, noun in enumerate(["cat", "dog", "cow"] * 9)
    for other in ("sun", "sea")
]


def test_special_tokens_come_first_then_the_frequent_ones() -> None:
    """S2S-I4; ties in reverse alphabetical order, as SageMaker's script sorts (count, token) pairs downwards."""
    found = Vocabulary.build([["b", "a", "c"], ["c", "<s>"], ["d"]], max_size=3)
    assert found.tokens == (*SPECIALS, "c", "d", "b")
    assert Vocabulary.build([["b", "a", "c"], ["c"]], min_count=2).tokens == (*SPECIALS, "c")


def test_numbers_there_and_back() -> None:
    words = Vocabulary.build([["a", "b", "b"]])
    numbers = words.encode(["b", "z", "a"])
    assert (numbers.dtype, numbers.tolist()) == (np.int64, [4, 1, 5])
    assert words.unknown(["b", "z", "y", "z"]) == ["z", "y"]
    assert words.decode([2, 4, 1, 5, 0, 3, 4]) == ["b", "<unk>", "a"]
    with pytest.raises(DataError, match="no such token"):
        words.decode([6])


def test_json_is_that_of_sagemaker(tmp_path: Path) -> None:
    words = Vocabulary.build([["ä", "b"]])
    words.save(tmp_path / "vocab.src.json")
    text = (tmp_path / "vocab.src.json").read_text(encoding="utf-8")
    assert text == json.dumps({token: n for n, token in enumerate(words.tokens)}, indent=4, ensure_ascii=False)
    assert Vocabulary.load(tmp_path / "vocab.src.json") == words


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[1, 2]", "is no vocabulary"),
        ("{", "is no vocabulary"),
        ('{"<pad>": 0, "<unk>": 1, "<s>": 2, "</s>": 4}', "have gaps"),
        ('{"<unk>": 0, "<pad>": 1, "<s>": 2, "</s>": 3}', "not a vocabulary"),
    ],
)
def test_files_that_are_no_vocabulary_are_named(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "v.json").write_text(content)
    with pytest.raises(DataError, match=problem):
        Vocabulary.load(tmp_path / "v.json")


def test_a_token_may_come_once() -> None:
    with pytest.raises(DataError, match="twice"):
        Vocabulary([*SPECIALS, "a", "a"])


@given(st.text(max_size=40))
def test_characters_and_words_join_to_the_text(text: str) -> None:
    collapsed = " ".join(text.split())
    for kind in ("char", "word"):
        tokenizer = Tokenizer(kind)  # type: ignore[arg-type]
        assert tokenizer.join(tokenizer.split(text)) == collapsed
    assert Tokenizer("char", lowercase=True).split(text) == list(collapsed.lower())


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_sentencepiece_trains_alike_and_needs_only_its_specification(model_type: str) -> None:
    first, words = train_sentencepiece(SENTENCES, 60, model_type)  # type: ignore[arg-type]
    second, _ = train_sentencepiece(SENTENCES, 60, model_type)  # type: ignore[arg-type]
    assert first == second
    assert words.tokens[:4] == SPECIALS
    assert len(words) <= 60
    again = Tokenizer(**json.loads(json.dumps(first.to_dict())))
    pieces = again.split("the cow sees the sea")
    assert words.unknown(pieces) == []
    assert again.join(pieces) == "the cow sees the sea"
    assert again.split("the\u00a0cow") == again.split("the cow")  # NFKC
    assert first._processor.piece_to_id(pieces[0]) == words.encode(pieces)[0]


def test_a_damaged_model_is_an_artifact_error() -> None:
    with pytest.raises(ArtifactError, match="damaged"):
        Tokenizer("sentencepiece", model="bm8gbW9kZWw=").split("a")
