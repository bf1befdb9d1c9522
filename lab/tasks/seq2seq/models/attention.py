"""Attention of decoder states to the memory: dot, bilinear (Luong et al. 2015, section 3.1), mlp (Bahdanau et al. 2015,
section A.1.2), and fixed, which always reads the last source token."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Kind = Literal["dot", "bilinear", "mlp", "fixed"]
MASKED = -1e9
"""Added to the score of padding: e to the power of it is exactly 0, and a row of padding alone still gives numbers."""


def padding_bias(source_BS: Tensor) -> Tensor:
    """Float [B, S]: 0 where there is a token, `MASKED` where there is padding (token 0)."""
    return (source_BS == 0).to(torch.float32) * MASKED


class Attention(nn.Module):
    """Where a query looks in the memory.

    Args:
        query_size: channels of the decoder's state.
        memory_size: channels of the memory.
        attention_size: hidden units of mlp.
    """

    def __init__(self, kind: Kind, query_size: int, memory_size: int, attention_size: int) -> None:
        super().__init__()
        self.kind = kind
        # dot has no weights of its own; they are needed only to bring memory and query to the same size.
        self.key_size = {"dot": query_size, "bilinear": query_size, "mlp": attention_size, "fixed": 0}[kind]
        needs_projection = kind in ("bilinear", "mlp") or (kind == "dot" and memory_size != query_size)
        self.project_keys = nn.Linear(memory_size, self.key_size, bias=False) if needs_projection else None
        if kind == "mlp":
            self.project_query = nn.Linear(query_size, attention_size, bias=False)
            self.energy = nn.Linear(attention_size, 1, bias=False)

    def keys(self, memory_BSC: Tensor) -> Tensor | None:
        """What queries are compared with, computed once per source; None where it is the memory itself."""
        return self.project_keys(memory_BSC) if self.project_keys is not None else None

    def query(self, state_BTH: Tensor) -> Tensor:
        """The query as it is compared with the keys."""
        query: Tensor = self.project_query(state_BTH) if self.kind == "mlp" else state_BTH
        return query

    def forward(
        self, state_BTH: Tensor, memory_BSC: Tensor, keys_BSK: Tensor | None, bias_BS: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Context [B, T, C] and weights [B, T, S] of T states at once."""
        return self.read(self.query(state_BTH), memory_BSC, keys_BSK, bias_BS)

    def read(
        self, query_BTK: Tensor, memory_BSC: Tensor, keys_BSK: Tensor | None, bias_BS: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`forward` for queries that are projected already."""
        keys_BSK = memory_BSC if keys_BSK is None else keys_BSK
        if self.kind == "fixed":
            weights_BTS = _last_token(bias_BS).unsqueeze(1).expand(-1, query_BTK.shape[1], -1)
        else:
            weights_BTS = (self._scores(query_BTK, keys_BSK) + bias_BS.unsqueeze(1)).softmax(dim=-1)
        return weights_BTS.to(memory_BSC.dtype) @ memory_BSC, weights_BTS

    def _scores(self, query_BTK: Tensor, keys_BSK: Tensor) -> Tensor:
        if self.kind != "mlp":
            return query_BTK @ keys_BSK.transpose(1, 2)
        hidden_BTSK = (query_BTK.unsqueeze(2) + keys_BSK.unsqueeze(1)).tanh()
        scores_BTS: Tensor = self.energy(hidden_BTSK).squeeze(-1)
        return scores_BTS


def _last_token(bias_BS: Tensor) -> Tensor:
    """1 at the last token that is no padding, else 0; float [B, S]."""
    is_token_BS = (bias_BS == 0).to(bias_BS.dtype)
    return is_token_BS - F.pad(is_token_BS[:, 1:], (0, 1))
