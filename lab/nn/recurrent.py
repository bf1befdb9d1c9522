"""LSTM and GRU layers that train at the speed of torch's kernels and export as ONNX LSTM and GRU nodes.

Shapes: B samples, T steps, I inputs, H hidden units, L layers times directions, D directions.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from lab.core.errors import ConfigError, DataError
from lab.nn import onnx_recurrent

Cell = Literal["lstm", "gru"]
State = tuple[Tensor, ...]

GATES: dict[str, type[nn.LSTM | nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}
SATURATED = 1e4  # sigmoid of it is exactly 1 and of its negative exactly 0, in every floating type
# What a padded step adds to the gates: torch's order i f g o and r z n. The cell is kept (f = 1, i = 0; z = 1) and
# nothing comes out (o = 0).
FREEZE = {"lstm": (-SATURATED, SATURATED, 0.0, -SATURATED), "gru": (0.0, SATURATED, 0.0)}


class Recurrent(nn.Module):
    """A stack of LSTM or GRU layers over padded batches; parameters are named as in `torch.nn.LSTM`, below `rnn`.

    Raises:
        ConfigError: the cell is unknown.
    """

    def __init__(
        self, cell: Cell, input_size: int, hidden_size: int, *, bidirectional: bool = False, num_layers: int = 1,
        dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if cell not in GATES:
            raise ConfigError("unknown recurrent cell", got=cell, expected=" or ".join(GATES))
        self.cell = cell
        self.rnn = GATES[cell](
            input_size, hidden_size, num_layers, batch_first=True, bidirectional=bidirectional,
            dropout=dropout if num_layers > 1 else 0.0,
        )  # fmt: skip

    def forward(
        self, x_BTI: Tensor, lengths_B: Tensor | None = None, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Run over all steps; outputs [B, T, D * H], zero beyond each length, and the state after the last real step.

        Args:
            lengths_B: number of real steps of each sample, at least 1; None: all T.
            state: h, and for an LSTM c, each [B, L, H]; None: zeros. The returned state has the same form.
        """
        state_LBH = None if state is None else tuple(part.transpose(0, 1).contiguous() for part in state)
        if torch.compiler.is_exporting():
            outputs_BTH, final_LBH = self._exported(x_BTI, lengths_B, state_LBH)
        elif lengths_B is None:
            outputs_BTH, final_LBH = self._plain(x_BTI, state_LBH)
        elif x_BTI.is_cuda or (self.cell == "lstm" and self.rnn.bidirectional and state is not None):
            # cuDNN skips padding; and a frozen LSTM cannot carry h over leading padding
            outputs_BTH, final_LBH = self._packed(x_BTI, lengths_B, state_LBH)
        else:
            outputs_BTH, final_LBH = self._frozen(x_BTI, lengths_B, state_LBH)
        return outputs_BTH, tuple(part.transpose(0, 1) for part in final_LBH)

    def step(self, x_BI: Tensor, state: State) -> tuple[Tensor, State]:
        """One time step: outputs [B, H] and the new state; exports as matrix products, without a recurrent node.

        Raises:
            DataError: the layers are bidirectional, so there is no single next step.
        """
        if self.rnn.bidirectional:
            raise DataError("a bidirectional layer cannot run step by step", expected="bidirectional=False")
        layers: list[State] = []
        for layer in range(self.rnn.num_layers):
            x_BI = self._between(x_BI) if layer else x_BI
            before = tuple(part[:, layer] for part in state)
            if self.cell == "lstm":
                layers.append(torch.lstm_cell(x_BI, before, *self._weights(layer)))
            else:
                layers.append((torch.gru_cell(x_BI, before[0], *self._weights(layer)),))
            x_BI = layers[-1][0]
        return x_BI, tuple(torch.stack(parts, dim=1) for parts in zip(*layers, strict=True))

    def _plain(self, x_BTI: Any, state_LBH: State | None) -> tuple[Tensor, State]:
        given = state_LBH if state_LBH is None or self.cell == "lstm" else state_LBH[0]
        outputs_BTH, final = self.rnn(x_BTI, given)
        return outputs_BTH, _as_tuple(final)

    def _packed(self, x_BTI: Tensor, lengths_B: Tensor, state_LBH: State | None) -> tuple[Tensor, State]:
        pack, unpack = nn.utils.rnn.pack_padded_sequence, nn.utils.rnn.pad_packed_sequence
        packed: Any = pack(x_BTI, lengths_B.cpu(), batch_first=True, enforce_sorted=False)
        outputs: Any
        outputs, final = self._plain(packed, state_LBH)
        return unpack(outputs, batch_first=True, total_length=x_BTI.shape[1])[0], final

    def _frozen(self, x_BTI: Tensor, lengths_B: Tensor, state_LBH: State | None) -> tuple[Tensor, State]:
        """As packed, but up to five times as fast on a CPU, where torch's fused kernel takes whole batches only.

        One more input, 1 on padded steps, drives the gates so that the cell keeps its state: exact, also for gradients.
        """
        is_padding_BT1 = (torch.arange(x_BTI.shape[1], device=x_BTI.device) >= lengths_B[:, None]).unsqueeze(-1)
        padding_BT1 = is_padding_BT1.to(x_BTI.dtype)
        finals: list[State] = []
        for layer in range(self.rnn.num_layers):
            x_BTI = self._between(x_BTI) if layer else x_BTI
            x_BTI, final = self._frozen_layer(layer, torch.cat([x_BTI, padding_BT1], dim=-1), state_LBH)
            if self.cell == "gru":
                x_BTI = x_BTI.masked_fill(is_padding_BT1, 0.0)
            finals.append((self._last_outputs(x_BTI, lengths_B), *final[1:]))
        return x_BTI, tuple(torch.cat(parts) for parts in zip(*finals, strict=True))

    def _frozen_layer(self, layer: int, x_BTI: Tensor, state_LBH: State | None) -> tuple[Tensor, State]:
        weights = []
        for direction in range(self.num_directions):
            ih, *others = self._weights(layer, direction)
            freeze = ih.new_tensor(FREEZE[self.cell]).repeat_interleave(self.rnn.hidden_size)
            weights += [torch.cat([ih, freeze[:, None]], dim=1), *others]
        state = self._state_of(layer, x_BTI, state_LBH)
        settings = (weights, True, 1, 0.0, self.training, self.rnn.bidirectional, True)
        if self.cell == "lstm":
            outputs_BTH, *final = torch.lstm(x_BTI, state, *settings)
        else:
            outputs_BTH, *final = torch.gru(x_BTI, state[0], *settings)
        return outputs_BTH, tuple(final)

    def _exported(self, x_BTI: Tensor, lengths_B: Tensor | None, state_LBH: State | None) -> tuple[Tensor, State]:
        """One recurrent node per layer; the operators of `lab.nn.onnx_recurrent` stand for them."""
        x_TBI = x_BTI.transpose(0, 1)
        lengths = None if lengths_B is None else lengths_B.to(torch.int32)
        finals: list[State] = []
        for layer in range(self.rnn.num_layers):
            weights = [w for direction in range(self.num_directions) for w in self._weights(layer, direction)]
            first, size = layer * self.num_directions, self.num_directions
            state = [] if state_LBH is None else [part[first : first + size] for part in state_LBH]
            y_TDBH, *final = onnx_recurrent.OPERATORS[self.cell](x_TBI, lengths, state, weights)
            x_TBI = y_TDBH.transpose(1, 2).flatten(2)
            finals.append(tuple(final))
        return x_TBI.transpose(0, 1), tuple(torch.cat(parts) for parts in zip(*finals, strict=True))

    @property
    def num_directions(self) -> int:
        return 2 if self.rnn.bidirectional else 1

    def _weights(self, layer: int, direction: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Input weights, hidden weights, input biases, hidden biases."""
        suffix = f"l{layer}" + ("_reverse" if direction else "")
        w_ih, w_hh, b_ih, b_hh = (getattr(self.rnn, f"{n}_{suffix}") for n in onnx_recurrent.WEIGHT_NAMES)
        return w_ih, w_hh, b_ih, b_hh

    def _state_of(self, layer: int, x_BTI: Tensor, state_LBH: State | None) -> State:
        if state_LBH is None:
            zeros_DBH = x_BTI.new_zeros(self.num_directions, x_BTI.shape[0], self.rnn.hidden_size)
            return (zeros_DBH, zeros_DBH)
        first = layer * self.num_directions
        return tuple(part[first : first + self.num_directions] for part in state_LBH)

    def _last_outputs(self, outputs_BTH: Tensor, lengths_B: Tensor) -> Tensor:
        """The final h [D, B, H]: forward at the last real step, backward at the first."""
        forward, *backward = outputs_BTH.chunk(self.num_directions, dim=-1)
        rows_B = torch.arange(len(lengths_B), device=lengths_B.device)
        return torch.stack([forward[rows_B, lengths_B - 1], *(part[:, 0] for part in backward)])

    def _between(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, self.rnn.dropout, self.training)


def _as_tuple(state: Tensor | State) -> State:
    return (state,) if isinstance(state, Tensor) else tuple(state)
