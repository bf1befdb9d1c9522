"""Convolutional encoder and decoder (Gehring et al. 2017, arXiv:1705.03122, section 3). Letters: models; K width.

A convolution is written as one product of K neighbouring rows with the weight: as fast as a convolution kernel on a
CPU, and with lengths unknown it exports to what every compiler knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import sqrt
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lab.tasks.seq2seq.config import DecoderConfig, EncoderConfig
from lab.tasks.seq2seq.models.encoded import Encoded

Tensors = dict[str, Tensor]
HALF = sqrt(0.5)
"""Keeps the variance of a sum of two."""
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "softrelu": F.softplus,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


class Embedding(nn.Module):
    """Tokens plus learned positions; positions beyond the last known one share it."""

    def __init__(self, vocabulary_size: int, embed_size: int, num_positions: int, dropout: float) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary_size, embed_size, padding_idx=0)
        self.positions = nn.Embedding(num_positions, embed_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """[B, T, E]."""
        positions_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        return self.at(tokens_BT, positions_T)

    def at(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Of tokens at given positions."""
        known = positions.clamp(max=self.positions.num_embeddings - 1)
        embedded: Tensor = self.dropout(self.tokens(tokens) + self.positions(known))
        return embedded


class Convolution(nn.Module):
    """K neighbours to C channels through a nonlinearity; glu gates half of 2 C channels with the other half."""

    def __init__(self, size: int, kernel_width: int, activation: str) -> None:
        super().__init__()
        self.kernel_width, self.activation = kernel_width, activation
        self.weights = nn.Linear(kernel_width * size, 2 * size if activation == "glu" else size)

    def forward(self, x_BTC: Tensor, before: int, after: int) -> Tensor:
        """[B, T, C], with so many zero rows put before and after."""
        num_steps = x_BTC.shape[1]
        padded = F.pad(x_BTC, (0, 0, before, after))
        rows = [padded[:, shift : shift + num_steps] for shift in range(self.kernel_width)]
        return self.of_rows(torch.cat(rows, dim=-1))

    def of_rows(self, rows: Tensor) -> Tensor:
        """Of K neighbouring rows, concatenated."""
        mixed = self.weights(rows)
        activated: Tensor = F.glu(mixed, dim=-1) if self.activation == "glu" else ACTIVATIONS[self.activation](mixed)
        return activated


class ConvEncoder(nn.Module):
    """A stack of convolutions with residual connections; its memory has the embedding's size."""

    def __init__(self, options: EncoderConfig, vocabulary_size: int, num_positions: int) -> None:
        super().__init__()
        size = options.hidden_size
        self.memory_size, self.kernel_width = options.embed_size, options.kernel_width
        self.embedding = Embedding(vocabulary_size, options.embed_size, num_positions, options.embed_dropout)
        self.dropout = nn.Dropout(options.dropout)
        self.enter, self.leave = nn.Linear(options.embed_size, size), nn.Linear(size, options.embed_size)
        self.layers = nn.ModuleList(
            Convolution(size, options.kernel_width, options.activation) for _ in range(options.num_layers)
        )

    def forward(self, source_BS: Tensor, lengths_B: Tensor) -> Encoded:
        """The memory, and values that are memory plus embedding, scaled by the root of the source's length."""
        is_token_BS1 = (source_BS != 0).unsqueeze(-1)
        embedded_BSE = self.embedding(source_BS)
        x = self.enter(embedded_BSE)
        for layer in self.layers:
            # Else what a convolution leaves at padding would come back in the next one.
            x = x * is_token_BS1
            around = self.kernel_width // 2
            x = (layer(self.dropout(x), around, around) + x) * HALF
        memory_BSC = self.leave(x) * is_token_BS1
        values_BSC = (memory_BSC + embedded_BSE) * HALF * is_token_BS1
        encoded = Encoded.of(memory_BSC, values_BSC, source_BS, None)
        scaled = values_BSC * encoded.num_tokens.sqrt().unsqueeze(-1)
        return Encoded(memory_BSC, scaled, encoded.bias_BS, encoded.final_BC)


class ConvDecoder(nn.Module):
    """Causal convolutions with attention in every layer.

    States: "state_rows" [B, layers, K - 1, H], the inputs that each layer saw last; "state_position" int64 [B].
    """

    def __init__(self, options: DecoderConfig, vocabulary_size: int, memory_size: int, num_positions: int) -> None:
        super().__init__()
        size, embed_size = options.hidden_size, options.embed_size
        self.options, self.output_size = options, embed_size
        self.embedding = Embedding(vocabulary_size, embed_size, num_positions, options.embed_dropout)
        self.dropout = nn.Dropout(options.dropout)
        self.enter, self.leave = nn.Linear(embed_size, size), nn.Linear(size, embed_size)
        self.layers, self.queries, self.contexts = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for _ in range(options.num_layers):
            self.layers.append(Convolution(size, options.kernel_width, options.activation))
            self.queries.append(nn.Linear(size, embed_size))
            self.contexts.append(nn.Linear(embed_size, size))
        same = memory_size == embed_size
        self.project_keys = None if same else nn.Linear(memory_size, embed_size, bias=False)
        self.project_values = None if same else nn.Linear(memory_size, embed_size, bias=False)

    def begin(self, encoded: Encoded) -> Tensors:
        """What stays the same over all steps, and the first states."""
        keys_BSE, values_BSE = encoded.memory_BSC, encoded.values_BSC
        if self.project_keys is not None and self.project_values is not None:
            keys_BSE, values_BSE = self.project_keys(keys_BSE), self.project_values(values_BSE)
        rows = encoded.zeros(self.options.num_layers * (self.options.kernel_width - 1) * self.options.hidden_size)
        shape = (-1, self.options.num_layers, self.options.kernel_width - 1, self.options.hidden_size)
        return {
            "memory": values_BSE,
            "bias": encoded.bias_BS,
            "keys": keys_BSE,
            "state_rows": rows.reshape(shape),
            "state_position": encoded.zeros(1).squeeze(1).to(torch.int64),
        }

    def forward(self, target_BT: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        """States [B, T, E] where the tokens before each are given: <s>, then the target."""
        embedded_BTE = self.embedding(target_BT)
        x = self.enter(embedded_BTE)
        for number, layer in enumerate(self.layers):
            convolved = layer(self.dropout(x), self.options.kernel_width - 1, 0)
            attended, _ = self._attend(number, convolved, embedded_BTE, tensors)
            x = (attended + x) * HALF
        states: Tensor = self.leave(x)
        return states

    def step(self, token_B: Tensor, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensors]:
        """One token further: state [B, E], attention [B, S] averaged over layers, and the next states by name."""
        position_B = tensors["state_position"]
        embedded_BTE = self.embedding.at(token_B, position_B).unsqueeze(1)
        x, weights, seen = self.enter(embedded_BTE), [], []
        for number, layer in enumerate(self.layers):
            rows_BKH = torch.cat([tensors["state_rows"][:, number], x], dim=1)
            seen.append(rows_BKH[:, 1:])
            convolved = cast(Convolution, layer).of_rows(rows_BKH.flatten(1).unsqueeze(1))
            attended, weights_BTS = self._attend(number, convolved, embedded_BTE, tensors)
            weights.append(weights_BTS)
            x = (attended + x) * HALF
        attention_BS = torch.stack(weights).mean(dim=0).squeeze(1)
        states = {"next_state_rows": torch.stack(seen, dim=1), "next_state_position": position_B + 1}
        return self.leave(x).squeeze(1), attention_BS, states

    def _attend(
        self, number: int, x_BTH: Tensor, embedded_BTE: Tensor, tensors: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """(Input plus context, weights [B, T, S]): section 3.3."""
        query_BTE = (self.queries[number](x_BTH) + embedded_BTE) * HALF
        scores_BTS = query_BTE @ tensors["keys"].transpose(1, 2)
        weights_BTS = (scores_BTS + tensors["bias"].unsqueeze(1)).softmax(dim=-1)
        context_BTH = self.contexts[number](weights_BTS.to(x_BTH.dtype) @ tensors["memory"])
        return (x_BTH + context_BTH) * HALF, weights_BTS
