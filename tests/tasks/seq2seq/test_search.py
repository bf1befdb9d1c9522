"""The search against exhaustive enumeration and greedy choice, and its limits; a random table stands for a model."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.core.errors import ConfigError
from lab.data.text.vocabulary import BEGIN, END, PAD
from lab.tasks.seq2seq.search import SearchOptions, search

VOCABULARY = 7  # the four special tokens and three others


class TableModel:
    """log p of the next token is looked up by (source, token before, step), so that histories matter."""

    def __init__(self, seed: int, num_sources: int, num_steps: int) -> None:
        scores = np.random.default_rng(seed).normal(0, 2, (num_sources, num_steps + 1, VOCABULARY, VOCABULARY))
        scores[..., [PAD, BEGIN]] = -1e9
        self.log_probs = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
        self.num_rows: list[int] = []

    def functions(self) -> dict[str, Any]:
        return {"encode": self.encode, "step": self.step}

    def encode(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        size = len(inputs["source"])
        return {"memory": np.arange(size), "state_step": np.zeros((size, 1), np.int64)}

    def step(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.num_rows.append(len(feed["token"]))
        step = feed["state_step"][:, 0]
        found = self.log_probs[feed["memory"], step, feed["token"]].astype(np.float32)
        attention = np.zeros((len(found), 4), np.float32)
        attention[np.arange(len(found)), np.minimum(step, 3)] = 1
        return {"log_probs": found, "attention": attention, "next_state_step": feed["state_step"] + 1}

    def log_p(self, source: int, tokens: tuple[int, ...]) -> float:
        before = (BEGIN, *tokens[:-1])
        return float(
            sum(self.log_probs[source, step, a, b] for step, (a, b) in enumerate(zip(before, tokens, strict=True)))
        )


def run(model: TableModel, num_sources: int, limit: int, **options: Any) -> dict[str, np.ndarray]:
    inputs = {"source": np.ones((num_sources, 4), np.int64)}
    return search(model.functions(), inputs, SearchOptions(np.full(num_sources, limit), **options))


def rows_of(tokens: np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(int(number) for number in row if number) for row in tokens]


def every_output(limit: int, min_length: int) -> list[tuple[int, ...]]:
    words = (1, 4, 5, 6)
    return [(*w, END) for length in range(min_length, limit + 1) for w in itertools.product(words, repeat=length)]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), penalty=st.sampled_from([0.0, 0.7, 1.0]), min_length=st.integers(0, 1))
def test_a_beam_as_wide_as_all_prefixes_is_exhaustive_search(seed: int, penalty: float, min_length: int) -> None:
    model, limit = TableModel(seed, 2, 2), 2
    found = run(model, 2, limit, beam_size=21, n_best=3, length_penalty=penalty, min_length=min_length)
    for source in range(2):
        scored = {
            tokens: model.log_p(source, tokens) / ((5 + len(tokens)) / 6) ** penalty
            for tokens in every_output(limit, min_length)
        }
        best = sorted(scored, key=lambda tokens: -scored[tokens])[:3]
        assert rows_of(found["tokens"][source]) == best
        assert found["scores"][source] == pytest.approx([scored[tokens] for tokens in best], abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_beam_of_one_is_greedy(seed: int) -> None:
    model, limit = TableModel(seed, 3, 6), 6
    found = run(model, 3, limit, beam_size=1)
    for source in range(3):
        tokens: list[int] = []
        while not tokens or tokens[-1] != END:
            row = model.log_probs[source, len(tokens), tokens[-1] if tokens else BEGIN].copy()
            row[END] = -np.inf if not tokens else row[END]
            tokens.append(END if len(tokens) == limit else int(row.argmax()))
        assert rows_of(found["tokens"][source]) == [tuple(tokens)]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), beam=st.integers(1, 5))
def test_sources_do_not_see_each_other(seed: int, beam: int) -> None:
    model = TableModel(seed, 5, 6)
    together = run(model, 5, 6, beam_size=beam)
    for source in range(5):
        alone = TableModel(seed, 5, 6)
        alone.log_probs = model.log_probs[source : source + 1]
        single = run(alone, 1, 6, beam_size=beam)
        assert rows_of(single["tokens"][0]) == rows_of(together["tokens"][source])
        length = single["attention"].shape[1]
        assert np.array_equal(single["attention"][0], together["attention"][source, :length])


def test_attention_rows_belong_to_the_tokens_of_the_best_output() -> None:
    found = run(TableModel(3, 2, 3), 2, 3, beam_size=4)
    for source in range(2):
        length = len(rows_of(found["tokens"][source])[0])
        assert found["attention"][source, :length].argmax(axis=1).tolist() == list(range(length))
        assert not found["attention"][source, length:].any()


def test_finished_sources_are_no_longer_computed_and_the_search_stops_early() -> None:
    model = TableModel(0, 8, 30)
    model.log_probs[:4, 1:, :, :] = -20.0
    model.log_probs[:4, 1:, :, END] = -0.001
    run(model, 8, 30, beam_size=3, length_penalty=0.0)
    assert model.num_rows[:2] == [24, 24]
    assert model.num_rows[-1] <= 12
    assert len(model.num_rows) < 31


def test_outputs_that_do_not_exist_score_minus_infinity() -> None:
    found = run(TableModel(0, 1, 1), 1, 1, beam_size=20, n_best=20)
    assert np.isfinite(found["scores"]).sum() == 4  # one of four tokens, then the end
    assert (found["tokens"][0, 4:] == 0).all()


def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="at most k outputs"):
        SearchOptions(np.ones(1, int), beam_size=2, n_best=3)
    with pytest.raises(ConfigError, match="must not be negative"):
        SearchOptions(np.ones(1, int), length_penalty=-1)
