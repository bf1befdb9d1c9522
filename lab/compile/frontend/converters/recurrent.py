"""LSTM, GRU and RNN: the input's share of the gates of all steps is one product, then one kernel loops over time.

Source: ONNX operators LSTM, GRU and RNN, versions 7 to 22. Shapes: as in `lab.compile.kernels.recurrent`; I inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax
from tvm.ir import GenericConst

from lab.compile.kernels import emit
from lab.compile.kernels.recurrent import Layer, steps
from lab.compile.kernels.recurrent_cpu import Plan, on_cpu
from lab.core.errors import UnsupportedError

ALL_STEPS = 1 << 30  # more than any length; the largest int32 would overflow where a step is added to it
LANES, HALF_LANES = 16, 8  # hidden units are padded to vectors of the widest target, or to half of them
ACTIVATIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


def lstm(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], params: Any, opset: int) -> Any:
    """Y, Y_h and Y_c. Raises UnsupportedError, naming the attribute, for variants of the cell."""
    return _convert("LSTM", builder, inputs, attributes)


def gru(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], params: Any, opset: int) -> Any:
    """Y and Y_h. Raises UnsupportedError, naming the attribute, for variants of the cell."""
    return _convert("GRU", builder, inputs, attributes)


def rnn(builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any], params: Any, opset: int) -> Any:
    """Y and Y_h. Raises UnsupportedError, naming the attribute, for variants of the cell."""
    return _convert("RNN", builder, inputs, attributes)


@dataclass(frozen=True)
class _Weights:
    """Constants as the kernel takes them: `inputs` [I, D * G * P], `bias`, `hidden` [D, H, G, P], `extra` [D, E, P]."""

    inputs: np.ndarray
    bias: np.ndarray
    hidden: np.ndarray
    extra: np.ndarray


def _convert(cell: str, builder: Any, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
    x, w, r, b, lengths, *rest = [*inputs, *[None] * 8][:8]
    reverse = DIRECTIONS[_text(attributes.get("direction", "forward"))]
    activation = _check_attributes(cell, attributes, len(reverse))
    if str(x.ty.dtype) != "float32":
        raise UnsupportedError(f"{cell} is compiled in float32 only", got=str(x.ty.dtype))
    w, r, b, peephole = (_constant(cell, name, v) for name, v in zip("WRBP", (w, r, b, rest[2]), strict=True))
    batch_first = bool(attributes.get("layout", 0))
    x = builder.emit(relax.op.permute_dims(x, [1, 0, 2])) if batch_first else x
    num_steps, batch, num_inputs = x.ty.shape
    hidden = int(r.shape[2])
    layer = Layer(
        cell, int(batch), hidden, _padded(hidden), reverse, bool(attributes.get("linear_before_reset", 0)),
        peephole is not None and bool(peephole.any()), activation,
    )  # fmt: skip
    weights = _arrange(layer, w, r, b, peephole)
    rows = builder.emit(relax.op.reshape(x, (num_steps * batch, num_inputs)))
    product = builder.emit(relax.op.matmul(rows, relax.const(weights.inputs)))
    biased = builder.emit(relax.op.add(product, relax.const(weights.bias)))
    gates = builder.emit(relax.op.reshape(biased, (num_steps, batch, weights.bias.size)))
    states = [_state(builder, layer, value, batch_first) for value in rest[: layer.num_states]]
    if lengths is None:
        lengths = relax.const(np.full(layer.batch, ALL_STEPS, np.int32))
    constants = [relax.const(array) for array in (weights.hidden, weights.extra)]
    results = _call(builder, layer, num_steps, [gates, *constants, lengths, *states])
    orders = ([2, 0, 1, 3], *[[1, 0, 2]] * layer.num_states)
    return relax.Tuple([
        builder.emit(relax.op.permute_dims(value, order)) if batch_first else value
        for value, order in zip(results, orders, strict=True)
    ])  # fmt: skip


def _call(builder: Any, layer: Layer, num_steps: Any, arguments: list[Any]) -> list[Any]:
    """The kernel in a form any target can run; the schedule writes it anew for the target's vectors and weights."""
    units = min(LANES, layer.padded)
    func = on_cpu(
        layer,
        steps(num_steps),
        Plan(lanes=HALF_LANES, units=units if layer.padded % units == 0 else HALF_LANES, packed=False),
    )
    state = (layer.num_directions, layer.batch, layer.hidden)
    shapes = [(num_steps, *state), *[state] * layer.num_states]
    both = builder.emit(emit.call(builder, func, arguments, shapes=shapes))
    return [builder.emit(relax.TupleGetItem(both, i)) for i in range(len(shapes))]


def _check_attributes(cell: str, attributes: Mapping[str, Any], num_directions: int) -> str:
    """The activation of a plain RNN. Raises UnsupportedError for what the kernel does not compute."""
    given = tuple(_text(name) for name in attributes.get("activations", ())) or ACTIVATIONS[cell] * num_directions
    allowed = [ACTIVATIONS[cell]] if cell != "RNN" else [(name,) for name in ("Tanh", "Relu", "Sigmoid")]
    if given not in [one * num_directions for one in allowed]:
        raise UnsupportedError(
            f"{cell} is compiled with its default activations only", got=f"activations={', '.join(given)}",
            expected=" or ".join(", ".join(one) for one in allowed),
        )  # fmt: skip
    if attributes.get("clip"):
        raise UnsupportedError(f"{cell} with the attribute clip cannot be compiled", got=f"clip={attributes['clip']}")
    if attributes.get("input_forget"):
        raise UnsupportedError(f"{cell} with coupled gates cannot be compiled", got="input_forget=1")
    return given[0]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _constant(cell: str, name: str, value: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, GenericConst):
        raise UnsupportedError(f"the weights {name} of {cell} are computed by the model", expected="constant weights")
    return value.value.numpy()


def _padded(hidden: int) -> int:
    """Hidden units of whole vectors: of the widest machine, unless that adds more than a tenth."""
    wide = -(-hidden // LANES) * LANES
    return wide if wide * 10 <= hidden * 11 else -(-hidden // HALF_LANES) * HALF_LANES


def _arrange(layer: Layer, w: np.ndarray, r: np.ndarray, b: np.ndarray | None, peephole: Any) -> _Weights:
    d, gates, hidden = layer.num_directions, layer.num_gates, layer.hidden
    pad: Callable[[np.ndarray], np.ndarray] = lambda array: np.pad(  # noqa: E731
        array, [(0, 0)] * (array.ndim - 1) + [(0, layer.padded - hidden)]
    )
    biases = np.zeros((d, 2 * gates * hidden), np.float32) if b is None else b
    of_inputs, of_hidden = biases.reshape(d, 2, gates, hidden).transpose(1, 0, 2, 3)
    extra = np.zeros((d, layer.num_extra, hidden), np.float32)
    if layer.peephole:
        extra = peephole.reshape(d, 3, hidden)
    if layer.cell == "GRU" and layer.linear_before_reset:
        extra, of_hidden = of_hidden[:, 2:], of_hidden * np.array([1, 1, 0], np.float32)[:, None]
    columns = pad(w.reshape(d, gates, hidden, -1).transpose(3, 0, 1, 2))
    return _Weights(
        inputs=np.ascontiguousarray(columns.reshape(columns.shape[0], -1)),
        bias=pad(of_inputs + of_hidden).reshape(-1),
        hidden=np.ascontiguousarray(pad(r.reshape(d, gates, hidden, hidden).transpose(0, 3, 1, 2))),
        extra=np.ascontiguousarray(pad(extra)),
    )


def _state(builder: Any, layer: Layer, value: Any, batch_first: bool) -> Any:
    if value is None:
        return relax.const(np.zeros((layer.num_directions, layer.batch, layer.hidden), np.float32))
    return builder.emit(relax.op.permute_dims(value, [1, 0, 2])) if batch_first else value
