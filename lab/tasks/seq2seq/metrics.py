"""Validation metrics while training: with the right target as history, and of outputs that the search found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from lab.data.text.pairs import PairDataset
from lab.tasks.seq2seq.scoring import Scorer


class TokenScores(Metric):
    """{"perplexity", "token_accuracy"} over all tokens, </s> among them (S2S-O1)."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for name in ("negative_log", "num_correct", "num_tokens"):
            self.add_state(name, default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.negative_log: Any
        self.num_correct: Any
        self.num_tokens: Any

    def update(self, negative_log: Tensor, num_correct: Tensor, num_tokens: Tensor) -> None:
        """Sums over a batch: of -log p in nats, of tokens that were the most probable, and of tokens."""
        self.negative_log += negative_log.double()
        self.num_correct += num_correct.double()
        self.num_tokens += num_tokens.double()

    def compute(self) -> dict[str, Tensor]:
        mean = self.negative_log / self.num_tokens
        return {"perplexity": mean.exp(), "token_accuracy": self.num_correct / self.num_tokens}


class FoundScores(Metric):
    """The scores of `scoring.Scorer`, over all processes.

    Args:
        make_scorer: a fresh one; the same that evaluation of a deployed model uses.
        dataset: its references, by index.
        max_length: tokens of the longest output, so that processes can gather them.
    """

    full_state_update = False

    def __init__(self, make_scorer: Callable[[], Scorer], dataset: PairDataset, max_length: int) -> None:
        super().__init__()
        self._make_scorer, self._dataset, self._max_length = make_scorer, dataset, max_length
        for name in ("tokens", "index"):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self.tokens: Any
        self.index: Any

    def update(self, tokens_BT: Tensor, index_B: Tensor) -> None:
        """Best outputs, padded with 0, and each one's place in the data set."""
        self.tokens.append(F.pad(tokens_BT, (0, self._max_length - tokens_BT.shape[1])))
        self.index.append(index_B)

    def compute(self) -> dict[str, Tensor]:
        tokens_NT, index_N = (dim_zero_cat(state).cpu().numpy() for state in (self.tokens, self.index))
        scorer = self._make_scorer()
        scorer.update({"tokens": tokens_NT[:, None]}, [self._dataset[int(index)] for index in index_N])
        return {name: torch.tensor(value) for name, value in scorer.compute().items()}
