"""Training of a decoder with input feeding: a loop over the target, with all that does not depend on it done at once.

The embeddings' part of the first layer's gates is one product over all steps, and so is every weight's gradient
(`DeferredLinear`). Letters: models; G gates times H.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lab.nn.recurrent import Recurrent
from lab.tasks.seq2seq.models.deferred import DeferredLinear

if TYPE_CHECKING:
    from lab.tasks.seq2seq.models.rnn import RNNDecoder

Cell = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]
"""(input that depends on the step before, state [B, H] each) -> new state, its first part being the output."""


def run_with_feeding(decoder: RNNDecoder, x_BTE: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """Attentional states [B, T, H], as `RNNDecoder.step` computes them one by one."""
    x_TBE, attention = x_BTE.transpose(0, 1), decoder.attention
    num_steps, size, combine = len(x_TBE), decoder.options.hidden_size, decoder.combine
    first, *above = decoder.stack
    cells = [cell_of(first, x_TBE, num_steps)]
    cells += [cell_of(layer, None, num_steps, x_BTE.shape[0]) for layer in above]
    to_hidden = DeferredLinear(combine.weight, _repeated(combine.bias, num_steps, x_BTE.shape[0]))
    to_query = _query_projection(decoder, num_steps, x_BTE)
    states = [tuple(part[:, 0] for part in decoder.states_of(tensors, layer)) for layer in range(len(cells))]
    feed_BH, hidden, keep = tensors["state_feed"], [], _dropout_mask(decoder, x_BTE, size + tensors["memory"].shape[2])
    asking = 0 if decoder.asks_first else len(cells) - 1
    for step in range(num_steps):
        x, context_BC = feed_BH, None
        for layer, cell in enumerate(cells):
            below = x
            given = decoder._input_above(x, context_BC if decoder.asks_first else None) if layer else x
            states[layer] = cell(given, states[layer])
            x = states[layer][0] + below if decoder.is_residual(layer + 1) else states[layer][0]
            if layer == asking:
                context, _ = attention.read(
                    to_query(x).unsqueeze(1), tensors["memory"], tensors.get("keys"), tensors["bias"]
                )
                context_BC = context.squeeze(1)
        assert context_BC is not None
        both = torch.cat([x, context_BC], dim=-1)
        feed_BH = to_hidden(both if keep is None else both * keep[step]).tanh()
        hidden.append(feed_BH)
    return torch.stack(hidden, dim=1)


def _dropout_mask(decoder: RNNDecoder, x_BTE: Tensor, size: int) -> Tensor | None:
    """What states and contexts are multiplied by, [T, B, size]: drawn at once for all steps."""
    rate = decoder.options.hidden_dropout
    if not (decoder.training and rate):
        return None
    return F.dropout(x_BTE.new_ones(x_BTE.shape[1], x_BTE.shape[0], size), rate)


def _query_projection(decoder: RNNDecoder, num_steps: int, like: Tensor) -> Callable[[Tensor], Tensor]:
    attention = decoder.attention
    if attention.kind != "mlp":
        return attention.query
    weight = attention.project_query.weight
    return DeferredLinear(weight, like.new_zeros(num_steps, like.shape[0], weight.shape[0]))


def cell_of(layer: Recurrent, x_TBE: Tensor | None, num_steps: int, batch_size: int = 0) -> Cell:
    """The steps of one layer; the known part of its inputs, where there is one, comes first in its weights."""
    w_ih, w_hh, b_ih, b_hh = layer._weights(0)
    known_size = 0 if x_TBE is None else x_TBE.shape[2]
    w_known, w_fed = w_ih[:, :known_size], w_ih[:, known_size:]
    lstm = layer.cell == "lstm"
    bias = b_ih + b_hh if lstm else b_ih
    base = _repeated(bias, num_steps, batch_size) if x_TBE is None else F.linear(x_TBE, w_known, bias)
    if lstm:
        return _lstm_cell(DeferredLinear(torch.cat([w_fed, w_hh], dim=1), base))
    return _gru_cell(DeferredLinear(w_fed, base), DeferredLinear(w_hh, _repeated(b_hh, num_steps, base.shape[1])))


class TokenGates(nn.Module):
    """The first layer of a decoder that is done learning, one step at a time.

    What a token's embedding adds to the gates is a table, so that the product of each step has the attentional state
    and the layer's own alone. Worth it where the table is no larger than the weights that it replaces: see `fits`.
    """

    table_VG: Tensor
    weight: Tensor
    weight_hh: Tensor
    bias_hh: Tensor

    def __init__(self, decoder: RNNDecoder) -> None:
        super().__init__()
        layer, tokens_VE = decoder.stack[0], decoder.embedding.weight.detach()
        w_ih, w_hh, b_ih, b_hh = (part.detach() for part in layer._weights(0))
        w_known, w_fed = w_ih[:, : tokens_VE.shape[1]], w_ih[:, tokens_VE.shape[1] :]
        self.is_lstm = layer.cell == "lstm"
        self.register_buffer("table_VG", F.linear(tokens_VE, w_known, b_ih + b_hh if self.is_lstm else b_ih))
        self.register_buffer("weight", torch.cat([w_fed, w_hh], dim=1) if self.is_lstm else w_fed)
        self.register_buffer("weight_hh", w_hh)
        self.register_buffer("bias_hh", b_hh)

    @staticmethod
    def fits(decoder: RNNDecoder) -> bool:
        return decoder.options.input_feeding and decoder.embedding.num_embeddings <= decoder.embedding.embedding_dim

    def forward(self, token_B: Tensor, feed_BH: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As `Recurrent.step` of the embedding and the attentional state: outputs [B, H], states [B, 1, H] each."""
        known_BG, before = self.table_VG[token_B], tuple(part[:, 0] for part in state)
        if self.is_lstm:
            cell = _lstm_cell(lambda x_BI: known_BG + F.linear(x_BI, self.weight))
        else:
            cell = _gru_cell(
                lambda x_BI: known_BG + F.linear(x_BI, self.weight),
                lambda h_BH: F.linear(h_BH, self.weight_hh, self.bias_hh),
            )
        after = cell(feed_BH, before)
        return after[0], tuple(part.unsqueeze(1) for part in after)


def _repeated(bias_O: Tensor, num_steps: int, batch_size: int) -> Tensor:
    return bias_O.expand(num_steps, batch_size, -1)


def _lstm_cell(gates: Callable[[Tensor], Tensor]) -> Cell:
    def step(x_BI: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        h, c = state
        i, f, g, o = gates(torch.cat([x_BI, h], dim=-1)).chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c

    return step


def _gru_cell(of_input: Callable[[Tensor], Tensor], of_state: Callable[[Tensor], Tensor]) -> Cell:
    def step(x_BI: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (h,) = state
        r_x, z_x, n_x = of_input(x_BI).chunk(3, dim=-1)
        r_h, z_h, n_h = of_state(h).chunk(3, dim=-1)
        n = (n_x + (r_x + r_h).sigmoid() * n_h).tanh()
        return (torch.lerp(n, h, (z_x + z_h).sigmoid()),)

    return step
