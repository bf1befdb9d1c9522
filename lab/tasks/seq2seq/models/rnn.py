"""Recurrent encoder and decoder with attention (Bahdanau et al. 2015; Luong et al. 2015). Letters: models."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lab.core.errors import ConfigError
from lab.nn.recurrent import Recurrent
from lab.tasks.seq2seq.config import DecoderConfig, EncoderConfig
from lab.tasks.seq2seq.models.attention import Attention
from lab.tasks.seq2seq.models.encoded import Encoded
from lab.tasks.seq2seq.models.feeding import TokenGates, run_with_feeding

Tensors = dict[str, Tensor]


class RNNEncoder(nn.Module):
    """Embedding and a stack of LSTM or GRU layers."""

    def __init__(self, options: EncoderConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.options = options
        self.memory_size = options.hidden_size
        self.embedding = nn.Embedding(vocabulary_size, options.embed_size, padding_idx=0)
        self.embed_dropout, self.dropout = nn.Dropout(options.embed_dropout), nn.Dropout(options.dropout)
        self.layers = nn.ModuleList(self._layer(number) for number in range(1, options.num_layers + 1))

    def _layer(self, number: int) -> Recurrent:
        options = self.options
        both = options.directions == "both" or (options.directions == "first" and number == 1)
        in_size = options.embed_size if number == 1 else options.hidden_size
        size = options.hidden_size // 2 if both else options.hidden_size
        return Recurrent(options.cell, in_size, size, bidirectional=both)

    def forward(self, source_BS: Tensor, lengths_B: Tensor) -> Encoded:
        """The memory [B, S, C], zero at padding, and what decoders start from."""
        x, final_BC = self.embed_dropout(self.embedding(source_BS)), source_BS
        for number, layer in enumerate(self.layers, 1):
            out, state = layer(self.dropout(x) if number > 1 else x, lengths_B)
            x = out + x if _is_residual(number, self.options.first_residual_layer) else out
            final_BC = state[0].flatten(1)
        return Encoded.of(x, x, source_BS, final_BC)


class RNNDecoder(nn.Module):
    """Recurrent layers, attention, and the attentional state that the output layer reads.

    States: "state_h" and, of an LSTM, "state_c" [B, layers, H]; with input feeding "state_feed" [B, H].
    """

    def __init__(self, options: DecoderConfig, vocabulary_size: int, memory_size: int) -> None:
        super().__init__()
        self.options, size = options, options.hidden_size
        self.output_size = size
        self.embedding = nn.Embedding(vocabulary_size, options.embed_size, padding_idx=0)
        self.embed_dropout, self.dropout = nn.Dropout(options.embed_dropout), nn.Dropout(options.dropout)
        self.hidden_dropout = nn.Dropout(options.hidden_dropout)
        first_size = options.embed_size + (size if options.input_feeding else 0)
        above_size = size + (memory_size if self.asks_first else 0)
        sizes = [first_size, *[above_size] * (options.num_layers - 1)]
        self.layers = nn.ModuleList(Recurrent(options.cell, in_size, size) for in_size in sizes)
        self.attention = Attention(options.attention, size, memory_size, options.attention_size or size)
        self.combine = nn.Linear(size + memory_size, size)
        self.num_parts = 2 if options.cell == "lstm" else 1
        num_states = 0 if options.state_init == "zero" else self.num_parts * options.num_layers
        self.bridges = nn.ModuleList(nn.Linear(memory_size, size) for _ in range(num_states))

    @property
    def stack(self) -> list[Recurrent]:
        """The recurrent layers, the lowest first."""
        return [layer for layer in self.layers if isinstance(layer, Recurrent)]

    @property
    def asks_first(self) -> bool:
        """The first layer's output is the query, and further layers see the context."""
        return self.options.attention_in_upper_layers and self.options.num_layers > 1

    def is_residual(self, number: int) -> bool:
        """Whether layer `number` (from 1) adds its input to its output."""
        return _is_residual(number, self.options.first_residual_layer)

    def begin(self, encoded: Encoded) -> Tensors:
        """What stays the same over all steps, and the first states."""
        tensors = {"memory": encoded.memory_BSC, "bias": encoded.bias_BS}
        keys_BSK = self.attention.keys(encoded.memory_BSC)
        if keys_BSK is not None:
            tensors["keys"] = keys_BSK
        for name, parts in zip(("state_h", "state_c"), self._first_states(encoded), strict=False):
            tensors[name] = torch.stack(parts, dim=1)
        if self.options.input_feeding:
            tensors["state_feed"] = encoded.zeros(self.options.hidden_size)
        return tensors

    def _first_states(self, encoded: Encoded) -> list[list[Tensor]]:
        """Per part (h, c) the state of every layer [B, H]."""
        num_layers = self.options.num_layers
        if self.options.state_init == "zero":
            return [[encoded.zeros(self.options.hidden_size)] * num_layers for _ in range(self.num_parts)]
        start_BC = encoded.final_BC if self.options.state_init == "last" else encoded.mean
        states = [bridge(start_BC).tanh() for bridge in self.bridges]
        return [states[part :: self.num_parts] for part in range(self.num_parts)]

    def states_of(self, tensors: Mapping[str, Tensor], layer: int) -> tuple[Tensor, ...]:
        """The state of one layer as `Recurrent` takes it: [B, 1, H] each."""
        return tuple(tensors[name][:, layer : layer + 1] for name in ("state_h", "state_c")[: self.num_parts])

    def forward(self, target_BT: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        """Attentional states [B, T, H] where the tokens before each are given: <s>, then the target."""
        x_BTE = self.embed_dropout(self.embedding(target_BT))
        if self.options.input_feeding:
            return run_with_feeding(self, x_BTE, tensors)
        context_BTC, x = None, x_BTE
        for number, layer in enumerate(self.stack, 1):
            out, _ = layer(
                self._input_above(x, context_BTC) if number > 1 else x, None, self.states_of(tensors, number - 1)
            )
            x = out + x if self.is_residual(number) else out
            if number == 1 and self.asks_first:
                context_BTC, _ = self._attend(x, tensors)
        if context_BTC is None:
            context_BTC, _ = self._attend(x, tensors)
        return self._combined(x, context_BTC)

    def step(
        self, token_B: Tensor, tensors: Mapping[str, Tensor], first: TokenGates | None = None
    ) -> tuple[Tensor, Tensor, Tensors]:
        """One token further: attentional state [B, H], attention [B, S], and the next states by their names.

        Args:
            first: the first layer in another form.
        """
        x, parts = self.embedding(token_B), []
        contexts: list[Tensor] = []
        if self.options.input_feeding:
            x = torch.cat([x, tensors["state_feed"]], dim=-1)
        weights_BTS = tensors["bias"]
        for number, layer in enumerate(self.stack, 1):
            before = self.states_of(tensors, number - 1)
            if number == 1 and first is not None:
                out, state = first(token_B, tensors["state_feed"], before)
            else:
                given = self._input_above(x, contexts[0] if contexts else None) if number > 1 else x
                out, state = layer.step(given, before)
            x = out + x if self.is_residual(number) else out
            parts.append(state)
            if number == (1 if self.asks_first else len(self.layers)):
                context_BTC, weights_BTS = self._attend(x.unsqueeze(1), tensors)
                contexts.append(context_BTC.squeeze(1))
        hidden_BH = self._combined(x, contexts[0])
        names = ("next_state_h", "next_state_c")
        states = {name: torch.cat(pieces, dim=1) for name, pieces in zip(names, zip(*parts, strict=True), strict=False)}
        if self.options.input_feeding:
            states["next_state_feed"] = hidden_BH
        return hidden_BH, weights_BTS.squeeze(1), states

    def _attend(self, x_BTH: Tensor, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        context, weights = self.attention(x_BTH, tensors["memory"], tensors.get("keys"), tensors["bias"])
        return context, weights

    def _input_above(self, x: Tensor, context: Tensor | None) -> Tensor:
        x = self.dropout(x)
        return x if context is None else torch.cat([x, context], dim=-1)

    def _combined(self, x: Tensor, context: Tensor) -> Tensor:
        hidden: Tensor = self.combine(self.hidden_dropout(torch.cat([x, context], dim=-1))).tanh()
        return hidden


def _is_residual(number: int, first: int | None) -> bool:
    return first is not None and number >= first


def check_residual(options: EncoderConfig | DecoderConfig, name: str) -> None:
    """Raises ConfigError when the first residual layer is above the last layer."""
    first = options.first_residual_layer
    if options.kind == "rnn" and first is not None and first > options.num_layers:
        raise ConfigError(
            f"{name}.first_residual_layer is above the last layer", got=first, expected=options.num_layers
        )
