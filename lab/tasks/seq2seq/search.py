"""Greedy and beam search over two functions, "encode" and "step", in numpy: the same for every engine.

The beam shrinks (Bahdanau et al. 2015, section A.2): a hypothesis that ends leaves its place, and the search of a
source ends with the last place, or as soon as no living hypothesis can become better than those that ended.

Shape letters: N sources, A of them still searched, K places of the beam, S source and T target tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from lab.core.errors import ConfigError
from lab.data.text.vocabulary import BEGIN, END, PAD

Call = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
STATE = "state_"
"""How the names of what changes from step to step begin; "next_" + name is the output that replaces it."""
DEAD = -np.inf


@dataclass(frozen=True)
class SearchOptions:
    """`limit_N` bounds the tokens of each source's output, </s> not counted; an output has at least `min_length`."""

    limit_N: np.ndarray
    beam_size: int = 5
    n_best: int = 1
    length_penalty: float = 1.0
    min_length: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.n_best <= self.beam_size:
            raise ConfigError(
                "a beam of k gives at most k outputs",
                got=f"n_best {self.n_best}, beam_size {self.beam_size}",
                expected="1 <= n_best <= beam_size",
            )
        if self.length_penalty < 0:
            raise ConfigError("length_penalty must not be negative", got=self.length_penalty)

    def penalty(self, length: np.ndarray | float) -> np.ndarray:
        """What log p is divided by (Wu et al. 2016, equation 14); `length` counts </s>."""
        divisor: np.ndarray = ((5.0 + np.asarray(length)) / 6.0) ** self.length_penalty
        return divisor


@dataclass
class _History:
    """What happened in each step, to walk back from the end of a hypothesis."""

    tokens: list[np.ndarray] = field(default_factory=list)
    """[N, K] after each step: the token in every place of the beam,"""
    parents: list[np.ndarray] = field(default_factory=list)
    """[N, K] and the place that it came from."""
    attention: list[np.ndarray] = field(default_factory=list)
    """[A, K, S] of the places before the step."""
    rows: list[np.ndarray] = field(default_factory=list)
    """[N] row of each source in `attention`."""


@dataclass
class _Ended:
    """Hypotheses that ended, unordered: score, step at which </s> came, and the place it came from."""

    scores_NK: np.ndarray
    steps_NK: np.ndarray
    parents_NK: np.ndarray
    count_N: np.ndarray

    @classmethod
    def none(cls, num_sources: int, beam_size: int) -> _Ended:
        shape = (num_sources, beam_size)
        return cls(np.full(shape, DEAD), np.zeros(shape, int), np.zeros(shape, int), np.zeros(num_sources, int))

    def add(
        self, sources: np.ndarray, ended_AK: np.ndarray, scores_AK: np.ndarray, parents_AK: np.ndarray, step: int
    ) -> None:
        rows, places = np.nonzero(ended_AK)
        at = self.count_N[sources[rows]] + (np.cumsum(ended_AK, axis=1) - 1)[rows, places]
        where = (sources[rows], at)
        self.scores_NK[where], self.steps_NK[where] = scores_AK[rows, places], step
        self.parents_NK[where] = parents_AK[rows, places]
        self.count_N[sources] += ended_AK.sum(axis=1)


def search(
    functions: Mapping[str, Call], inputs: Mapping[str, np.ndarray], options: SearchOptions
) -> dict[str, np.ndarray]:
    """The best outputs of each source.

    Args:
        functions: "encode" (inputs -> memory and "state_..." tensors) and "step" ("token", memory, states ->
            "log_probs" [rows, V], "attention" [rows, S], "next_state_..."), rows being sources times beam places.

    Returns:
        tokens int64 [N, n_best, T], </s> included, padded with 0; scores float32 [N, n_best], -inf where there is no
        such output; attention float32 [N, T, S] of the best output.
    """
    return _Search(functions, inputs, options).run()


class _Search:
    def __init__(self, functions: Mapping[str, Call], inputs: Mapping[str, np.ndarray], options: SearchOptions) -> None:
        self.options, self.step_function = options, functions["step"]
        encoded = functions["encode"](inputs)
        size, beam = len(inputs["source"]), options.beam_size
        rows = np.repeat(np.arange(size), beam)
        self.memory = {name: _frozen(array[rows]) for name, array in encoded.items() if not name.startswith(STATE)}
        self.states = {name: array[rows] for name, array in encoded.items() if name.startswith(STATE)}
        self.sources = np.arange(size)
        self.rows = np.arange(size)
        """Of each of `sources`, its row among those that the functions still compute."""
        self.tokens_AK = np.full((size, beam), BEGIN, np.int64)
        self.live_AK = np.where(np.arange(beam) == 0, 0.0, DEAD) + np.zeros((size, 1))
        self.ended = _Ended.none(size, beam)
        self.history = _History()
        self.num_columns = inputs["source"].shape[1]
        self.first_limit = int(options.limit_N.min(initial=0))

    def run(self) -> dict[str, np.ndarray]:
        step = 0
        while len(self.sources):
            self._advance(step)
            self._retire(step)
            step += 1
        return self._results()

    def _advance(self, step: int) -> None:
        beam, num_rows = self.options.beam_size, len(self.tokens_AK)
        feed = {"token": self.tokens_AK.reshape(-1), **self.memory, **self.states}
        outputs = self.step_function(feed)
        totals_AKV = self._allowed(outputs["log_probs"].reshape(num_rows, beam, -1), step)
        totals_AKV += self.live_AK[:, :, None]
        scores_AK, parents_AK, tokens_AK = _best(totals_AKV, beam)
        # Ranks beyond the places that are still free do not count.
        free_A = np.zeros(num_rows, int)
        free_A[self.rows] = beam - self.ended.count_N[self.sources]
        alive_AK = (np.arange(beam) < free_A[:, None]) & (scores_AK > DEAD)
        ended_AK = alive_AK & (tokens_AK == END)
        if ended_AK.any():
            final_AK, own = scores_AK / self.options.penalty(step + 1.0), self.rows
            self.ended.add(self.sources, ended_AK[own], final_AK[own], parents_AK[own], step)
            alive_AK &= ~ended_AK
        self.live_AK = np.where(alive_AK, scores_AK, DEAD)
        self.tokens_AK = np.where(alive_AK, tokens_AK, PAD)
        self._record(parents_AK, outputs["attention"].reshape(num_rows, beam, -1))
        rows = (np.arange(num_rows)[:, None] * beam + parents_AK).reshape(-1)
        self.states = {name: outputs[f"next_{name}"][rows] for name in self.states}

    def _allowed(self, log_probs_AKV: np.ndarray, step: int) -> np.ndarray:
        """Without what cannot come next; at the limit only </s> can."""
        allowed = log_probs_AKV.astype(np.float64)
        allowed[..., PAD] = allowed[..., BEGIN] = DEAD
        if step < self.options.min_length:
            allowed[..., END] = DEAD
        if step >= self.first_limit:
            at_limit = self.rows[self.options.limit_N[self.sources] <= step]
            end = log_probs_AKV[at_limit, :, END]
            allowed[at_limit] = DEAD
            allowed[at_limit, :, END] = end
        return allowed

    def _record(self, parents_AK: np.ndarray, attention_AKS: np.ndarray) -> None:
        size, beam = self.ended.scores_NK.shape
        if len(self.sources) == size:  # none was dropped yet
            tokens, parents, rows = self.tokens_AK, parents_AK, self.rows
        else:
            tokens, parents, rows = np.zeros((size, beam), np.int64), np.zeros((size, beam), int), np.zeros(size, int)
            tokens[self.sources], parents[self.sources] = self.tokens_AK[self.rows], parents_AK[self.rows]
            rows[self.sources] = self.rows
        self.history.tokens.append(tokens)
        self.history.parents.append(parents)
        self.history.attention.append(attention_AKS)
        self.history.rows.append(rows)

    def _retire(self, step: int) -> None:
        """Drop the sources that are done; compute without them once they are a quarter of the rows."""
        live_A = self.live_AK[self.rows].max(axis=1)
        if not self.ended.count_N.any() and live_A.min() > DEAD:
            return
        longest_A = self.options.limit_N[self.sources] + 1.0
        # log p only falls and the penalty only grows with the length, so this bounds whatever may still come.
        bound_A = live_A / self.options.penalty(longest_A)
        worst_A = np.sort(self.ended.scores_NK[self.sources], axis=1)[:, -self.options.n_best]
        full_A = self.ended.count_N[self.sources] == self.options.beam_size
        keep = ~full_A & (live_A > DEAD) & (bound_A > worst_A)
        self.sources, self.rows = self.sources[keep], self.rows[keep]
        if len(self.sources) and len(self.sources) <= 0.75 * len(self.tokens_AK):
            self._compact()

    def _compact(self) -> None:
        beam = self.options.beam_size
        rows = (self.rows[:, None] * beam + np.arange(beam)).reshape(-1)
        self.memory = {name: _frozen(array[rows]) for name, array in self.memory.items()}
        self.states = {name: array[rows] for name, array in self.states.items()}
        self.tokens_AK, self.live_AK = self.tokens_AK[self.rows], self.live_AK[self.rows]
        self.rows = np.arange(len(self.rows))

    def _results(self) -> dict[str, np.ndarray]:
        order_NK = np.argsort(-self.ended.scores_NK, axis=1, kind="stable")[:, : self.options.n_best]
        scores = np.take_along_axis(self.ended.scores_NK, order_NK, axis=1)
        steps = np.where(scores > DEAD, np.take_along_axis(self.ended.steps_NK, order_NK, axis=1), -1)
        places = np.take_along_axis(self.ended.parents_NK, order_NK, axis=1)
        size, length = len(scores), max(int(steps.max(initial=-1)) + 1, 1)
        row_N1 = np.arange(size)[:, None]
        tokens = np.zeros((size, self.options.n_best, length), np.int64)
        attention = np.zeros((size, length, self.num_columns), np.float32)
        for step in range(length - 1, -1, -1):
            if step >= len(self.history.tokens):
                break
            tokens[..., step][steps == step] = END
            earlier = steps > step
            found, before = self.history.tokens[step][row_N1, places], self.history.parents[step][row_N1, places]
            tokens[..., step] = np.where(earlier, found, tokens[..., step])
            places = np.where(earlier, before, places)
            known = np.flatnonzero(steps[:, 0] >= step)
            attention[known, step] = self.history.attention[step][self.history.rows[step][known], places[known, 0]]
        return {"tokens": tokens, "scores": scores.astype(np.float32), "attention": attention}


def _best(totals_AKV: np.ndarray, beam_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(scores, place, token) [A, K] of the best continuations of each source, best first; equal ones in fixed order."""
    size, beam, vocabulary = totals_AKV.shape
    flat, row_A1 = totals_AKV.reshape(size, beam * vocabulary), np.arange(size)[:, None]
    chosen = np.sort(np.argpartition(flat, -beam_size, axis=1)[:, -beam_size:], axis=1)
    scores = flat[row_A1, chosen]
    order = np.argsort(-scores, axis=1, kind="stable")
    chosen, scores = chosen[row_A1, order], scores[row_A1, order]
    parents = chosen // vocabulary
    return scores, parents, chosen - parents * vocabulary


def _frozen(array: np.ndarray) -> np.ndarray:
    """Read-only: a runner need not copy it again at every step."""
    array.flags.writeable = False
    return array
