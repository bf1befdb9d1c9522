"""One recurrent layer as a torch operator that `torch.onnx.export` turns into the standard LSTM or GRU node.

Shapes: T steps, B samples, I inputs, H hidden units, D directions; as in ONNX, so no node of the file is a transpose
that the layer itself does not need.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lab.nn.onnx_functions import StandardOperator

WEIGHT_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
# ONNX's order of gates in torch's: i o f c of torch's i f g o, and z r h of torch's r z n.
ONNX_GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}


@torch.library.custom_op("lab::lstm", mutates_args=())
def lstm(
    x_TBI: Tensor, lengths_B: Tensor | None, state: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs [T, D, B, H] and final h and c [D, B, H]; `state` is empty or h and c; four `weights` per direction."""
    y, h, c = _run(torch.lstm, 2, x_TBI, lengths_B, state, weights)
    return y, h, c


@lstm.register_fake
def _(
    x_TBI: Tensor, lengths_B: Tensor | None, state: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(x_TBI, weights), *(_final(x_TBI, weights) for _ in range(2))  # type: ignore[return-value]


@torch.library.custom_op("lab::gru", mutates_args=())
def gru(
    x_TBI: Tensor, lengths_B: Tensor | None, state: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Outputs [T, D, B, H] and final h [D, B, H]; `state` is empty or h; four `weights` per direction."""
    y, h = _run(torch.gru, 1, x_TBI, lengths_B, state, weights)
    return y, h


@gru.register_fake
def _(
    x_TBI: Tensor, lengths_B: Tensor | None, state: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    return _outputs(x_TBI, weights), _final(x_TBI, weights)


OPERATORS: dict[str, Callable[..., tuple[Tensor, ...]]] = {"lstm": lstm, "gru": gru}


def _run(
    kernel: Callable[..., Any], num_states: int, x_TBI: Tensor, lengths_B: Tensor | None, state: Sequence[Tensor],
    weights: Sequence[Tensor],
) -> list[Tensor]:  # fmt: skip
    given = list(state) or [_final(x_TBI, weights).zero_() for _ in range(num_states)]
    hidden = given if num_states > 1 else given[0]
    both, num_steps = len(weights) > 4, x_TBI.shape[0]
    if lengths_B is None:
        y_TBH, *final = kernel(x_TBI, hidden, list(weights), True, 1, 0.0, False, both, False)
    else:
        pack, unpack = torch.nn.utils.rnn.pack_padded_sequence, torch.nn.utils.rnn.pad_packed_sequence
        data, sizes, order, back = pack(x_TBI, lengths_B.cpu().long(), enforce_sorted=False)
        assert order is not None
        sorted_states = [part[:, order] for part in given]
        hidden = sorted_states if num_states > 1 else sorted_states[0]
        y, *final = kernel(data, sizes, hidden, list(weights), True, 1, 0.0, False, both)
        y_TBH, _ = unpack(torch.nn.utils.rnn.PackedSequence(y, sizes, order, back), total_length=num_steps)
        final = [part[:, back] for part in final]
    num_directions, hidden_size = _final(x_TBI, weights).shape[0::2]
    y_TDBH = y_TBH.reshape(*y_TBH.shape[:2], num_directions, hidden_size).transpose(1, 2)
    return [part.contiguous() for part in (y_TDBH, *final)]


def _outputs(x_TBI: Tensor, weights: Sequence[Tensor]) -> Tensor:
    return x_TBI.new_empty(x_TBI.shape[0], len(weights) // 4, x_TBI.shape[1], weights[1].shape[1])


def _final(x_TBI: Tensor, weights: Sequence[Tensor]) -> Tensor:
    return x_TBI.new_empty(len(weights) // 4, x_TBI.shape[1], weights[1].shape[1])


def _translation(op_type: str) -> Callable[..., Any]:
    """What the exporter calls for one operator; source: ONNX operators LSTM-14 and GRU-14."""

    def translate(x: Any, lengths: Any, state: Sequence[Any], weights: Sequence[Any]) -> Any:
        from onnxscript import opset18 as op

        hidden_size = weights[1].shape[1]
        gates = [gate * hidden_size + unit for gate in ONNX_GATES[op_type] for unit in range(hidden_size)]
        order = op.Constant(value_ints=gates)
        by_name = [[op.Gather(w, order, axis=0) for w in weights[index::4]] for index in range(4)]
        w, r = (_per_direction(op, parts) for parts in by_name[:2])
        b = _per_direction(op, [op.Concat(*pair, axis=0) for pair in zip(*by_name[2:], strict=True)])
        attributes: dict[str, Any] = {
            "hidden_size": int(hidden_size),
            "direction": "bidirectional" if len(weights) > 4 else "forward",
        }
        if op_type == "GRU":
            return op.GRU(x, w, r, b, lengths, *state, linear_before_reset=1, **attributes)
        return op.LSTM(x, w, r, b, lengths, *state, **attributes)

    return translate


def _per_direction(op: Any, parts: Sequence[Any]) -> Any:
    rows = [op.Unsqueeze(part, op.Constant(value_ints=[0])) for part in parts]
    return rows[0] if len(rows) == 1 else op.Concat(*rows, axis=0)


LSTM = StandardOperator(torch.ops.lab.lstm.default, _translation("LSTM"))
GRU = StandardOperator(torch.ops.lab.gru.default, _translation("GRU"))
