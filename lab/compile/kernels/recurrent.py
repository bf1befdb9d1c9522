"""An LSTM, GRU or plain recurrent layer: its loop over time, as opposed to what all inputs add to the gates before it.

The kernels themselves: `recurrent_cpu`, `recurrent_gpu`. Source: ONNX operators LSTM-14, GRU-14 and RNN-14.

Shapes: T steps, B samples, D directions, G gates (in ONNX's order), H hidden units, P the same padded to whole vectors,
E extra rows (an LSTM's peepholes i o f; a GRU's recurrent bias of its hidden gate; zero for others).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm.tirx.script.builder as T
from tvm import tirx
from tvm.tirx import PrimFunc

NAME = "recurrent"
NUM_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
WEIGHTS = 1  # the position of the recurrent weights among the arguments


@dataclass(frozen=True)
class Layer:
    """One recurrent layer. `reverse` says of each direction whether it runs backward."""

    cell: str
    batch: int
    hidden: int
    padded: int
    reverse: tuple[bool, ...]
    linear_before_reset: bool = False
    peephole: bool = False
    activation: str = "Tanh"

    @property
    def num_directions(self) -> int:
        return len(self.reverse)

    @property
    def num_gates(self) -> int:
        return NUM_GATES[self.cell]

    @property
    def num_states(self) -> int:
        return 2 if self.cell == "LSTM" else 1

    @property
    def num_extra(self) -> int:
        return 3 if self.cell == "LSTM" else 1

    @property
    def step_flops(self) -> int:
        """Multiplications and additions of the recurrent products of one step."""
        return 2 * self.num_directions * self.batch * self.num_gates * self.hidden * self.hidden

    def attributes(self) -> dict[str, Any]:
        """What `layer_of` needs to know besides shapes."""
        return {
            "cell": self.cell, "hidden": self.hidden, "reverse": "".join(str(int(flag)) for flag in self.reverse),
            "linear_before_reset": int(self.linear_before_reset), "peephole": int(self.peephole),
            "activation": self.activation,
        }  # fmt: skip


def layer_of(func: PrimFunc) -> Layer:
    """The layer that the kernel `func` runs."""
    attrs = func.attrs
    x, extra = func.params[0], func.params[2]
    return Layer(
        cell=str(attrs["lab.cell"]), batch=int(x.shape[1]), hidden=int(attrs["lab.hidden"]),
        padded=int(extra.shape[2]), reverse=tuple(flag == "1" for flag in str(attrs["lab.reverse"])),
        linear_before_reset=bool(int(attrs["lab.linear_before_reset"])), peephole=bool(int(attrs["lab.peephole"])),
        activation=str(attrs["lab.activation"]),
    )  # fmt: skip


class Arguments:
    """The parameters of a kernel under construction: inputs first, results last."""

    def __init__(self, layer: Layer, num_steps: Any, packed_units: int = 0) -> None:
        """`packed_units`: weights are stored [P / units, D, H, G, units]; 0: [D, H, G, P]."""
        d, gates, hidden, p = layer.num_directions, layer.num_gates, layer.hidden, layer.padded
        state = (d, layer.batch, hidden)
        packed = (p // packed_units, d, hidden, gates, packed_units) if packed_units else (d, hidden, gates, p)
        self.x = _argument("x", (num_steps, layer.batch, d * gates * p))
        self.weights = _argument("weights", packed)
        self.extra = _argument("extra", (d, layer.num_extra, p))
        self.lengths = _argument("lengths", (layer.batch,), "int32")
        self.initial = [_argument(f"{name}_initial", state) for name in "hc"[: layer.num_states]]
        self.y = _argument("y", (num_steps, d, layer.batch, hidden))
        self.final = [_argument(f"{name}_final", state) for name in "hc"[: layer.num_states]]


def _argument(name: str, shape: tuple[Any, ...], dtype: str = "float32") -> Any:
    return T.arg(name, T.buffer(shape, dtype))


def steps(like: Any) -> Any:
    """The number of steps in a kernel of its own: a constant as it is, a fresh variable for a length that is open."""
    value = getattr(like, "value", like)
    return int(value) if isinstance(value, int) else tirx.Var("num_steps", "int64")
