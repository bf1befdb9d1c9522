"""The loop over time on a CPU: gates of a block of hidden units in registers, weights packed by block.

Shapes: as in `recurrent`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import tvm.tirx.script.builder as T
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import PrimFunc

from lab.compile.kernels import emit
from lab.compile.kernels.recurrent import NAME, Arguments, Layer
from lab.compile.kernels.vector_math import sigmoid_by_tanh as sigmoid
from lab.compile.kernels.vector_math import tanh

UNROLL = 4


@dataclass(frozen=True)
class Plan:
    """How the loop is cut up: `units` hidden units at a time in vectors of `lanes`, `rows` samples at a time.

    Each of `num_groups` groups of samples, and each direction, is a task that runs through all steps by itself. Tasks
    that share a step would have to meet after every step, which on a busy machine takes longer than the step.
    """

    lanes: int
    units: int
    rows: int = 1
    num_groups: int = 1
    packed: bool = True

    def num_tiles(self, batch: int) -> int:
        """Tiles of rows in one group; the last may reach beyond the batch."""
        return -(-batch // (self.rows * self.num_groups))


def on_cpu(layer: Layer, num_steps: Any, plan: Plan) -> PrimFunc:
    """The kernel; see `Arguments` for its parameters."""
    with IRBuilder() as builder:
        with T.prim_func(private=True, s_tir=True):
            T.func_name(NAME)
            arguments = Arguments(layer, num_steps, plan.units if plan.packed else 0)
            _Loop(layer, num_steps, plan, arguments).write()
        func = builder.get()
    return emit.named(func, NAME, **layer.attributes())


@dataclass(frozen=True)
class _Place:
    """Where a block of the loop works: whose turn the two copies of h are, position in the sequence, direction, ..."""

    parity: Any
    at: Any
    d: Any
    block: Any
    row: Any


class _Loop:
    """Writes the kernel: every method adds statements to the function under construction."""

    def __init__(self, layer: Layer, num_steps: Any, plan: Plan, arguments: Arguments) -> None:
        self.layer, self.num_steps, self.plan, self.args = layer, num_steps, plan, arguments
        self.num_rows = plan.rows * plan.num_groups * plan.num_tiles(layer.batch)
        self.num_blocks = layer.padded // plan.units

    def write(self) -> None:
        layer, plan, d = self.layer, self.plan, self.layer.num_directions
        state = (d, self.num_rows, layer.padded)
        with T.sblock(NAME):
            self.h = T.alloc_buffer((2, *state), "float32")  # step t reads h[t % 2] and writes the other
            self.c = T.alloc_buffer(state, "float32")  # an LSTM's cell; a GRU's gate z between its two phases
            self.reset = T.alloc_buffer(state, "float32")
            self._begin()
            with (T.parallel if d * plan.num_groups > 1 else T.serial)(d * plan.num_groups) as task:
                first = task % plan.num_groups * (self.num_rows // plan.num_groups)
                with T.serial(self.num_steps) as t:
                    for phase in self._phases():
                        with T.serial(self.num_blocks) as block:
                            self._tiles(phase, t, task // plan.num_groups, block, first)
            self._end()

    def _begin(self) -> None:
        """The initial states, in rows padded with zeros."""
        layer = self.layer
        with T.grid(layer.num_directions, self.num_rows, layer.padded) as (d, b, j):
            inside = T.And(b < layer.batch, j < layer.hidden)
            at = (d, T.min(b, layer.batch - 1), T.min(j, layer.hidden - 1))
            values = [T.Select(inside, source[at], T.float32(0)) for source in self.args.initial]
            T.buffer_store(self.h, values[0], [0, d, b, j])
            if layer.cell == "LSTM":
                T.buffer_store(self.c, values[1], [d, b, j])

    def _end(self) -> None:
        last = T.Cast("int32", self.num_steps % 2)
        with T.grid(self.layer.num_directions, self.layer.batch, self.layer.hidden) as (d, b, j):
            T.buffer_store(self.args.final[0], self.h[last, d, b, j], [d, b, j])
            if self.layer.cell == "LSTM":
                T.buffer_store(self.args.final[1], self.c[d, b, j], [d, b, j])

    def _phases(self) -> list[Callable[[_Place], None]]:
        """What every step does, with all units done before the next phase begins."""
        if self.layer.cell == "LSTM":
            return [self._lstm]
        if self.layer.cell == "RNN":
            return [self._rnn]
        return [self._gru] if self.layer.linear_before_reset else [self._gru_reset, self._gru_hidden]

    def _tiles(self, phase: Callable[[_Place], None], t: Any, d: Any, block: Any, first: Any) -> None:
        """One phase for one block of units: the rows, tile by tile, while the block's weights are in cache."""
        with T.serial(self.plan.num_tiles(self.layer.batch)) as tile, T.sblock("tile"):
            size = (self.plan.rows, self.layer.num_gates, self.plan.units)
            self.acc = T.alloc_buffer(size, "float32", scope="local")
            self.gates = T.alloc_buffer(size, "float32", scope="local")
            parity = T.Cast("int32", t % 2)
            place = _Place(parity, self._position(t, d), d, block, first + tile * self.plan.rows)
            phase(place)
            if not self._is_whole() and phase != self._gru_reset:
                self._show(place)

    def _position(self, t: Any, d: Any) -> Any:
        """Where in the sequence step t is: a backward direction begins at the end, where padding leaves it at rest."""
        back = self.num_steps - 1 - t
        if self.layer.num_directions == 1:
            return back if self.layer.reverse[0] else t
        return T.Select(d == 1, back, t)

    def _lanes(self) -> Iterator[Any]:
        """The units of a block, as statements of one vector each."""
        for vector in range(self.plan.units // self.plan.lanes):
            with T.vectorized(self.plan.lanes) as lane:
                yield vector * self.plan.lanes + lane

    def _gates(self, place: _Place, gates: Sequence[int], source: str = "h", bias_of: int = -1) -> None:
        """acc[row, slot] = what the inputs add to each of `gates` + the product of h (or r * h) and its weights."""
        for m in range(self.plan.rows):
            for slot, gate in enumerate(gates):
                for lane in self._lanes():
                    of_input = self._input(place, m, gate, lane)
                    start = self._extra(place, 0, lane) if gate == bias_of else of_input
                    T.buffer_store(self.acc, start, [m, slot, lane])
        unroll = UNROLL if self.layer.hidden % UNROLL == 0 else 1
        with T.serial(self.layer.hidden // unroll) as outer:
            for inner in range(unroll):
                self._multiply(place, gates, source, outer * unroll + inner)
        for m in range(self.plan.rows):
            for slot in range(len(gates)):
                for lane in self._lanes():
                    T.buffer_store(self.gates, self.acc[m, slot, lane], [m, slot, lane])

    def _multiply(self, place: _Place, gates: Sequence[int], source: str, k: Any) -> None:
        """One step of the product; samples inside, so that their values stay in registers and weights pass through."""
        weights = self.args.weights
        for slot, gate in enumerate(gates):
            for lane in self._lanes():
                packed = (place.block, place.d, k, gate, lane)
                plain = (place.d, k, gate, self._unit(place, lane))
                weight = T.bind(weights[packed if self.plan.packed else plain])
                for m in range(self.plan.rows):
                    row = place.row + m
                    value = self.h[place.parity, place.d, row, k] if source == "h" else self.reset[place.d, row, k]
                    T.buffer_store(self.acc, self.acc[m, slot, lane] + value * weight, [m, slot, lane])

    def _each(self, num_gates: int) -> Iterator[tuple[Any, Any, list[Any]]]:
        """Row, lane and accumulated gates, vector by vector, as loops: only the product above needs registers."""
        lanes = self.plan.lanes
        with T.grid(self.plan.rows, self.plan.units // lanes) as (m, vector), T.vectorized(lanes) as inner:
            lane = vector * lanes + inner
            yield m, lane, [self.gates[m, slot, lane] for slot in range(num_gates)]

    def _lstm(self, place: _Place) -> None:
        self._gates(place, (0, 1, 2, 3))
        for m, lane, (i, o, f, g) in self._each(4):
            at = (place.d, place.row + m, self._unit(place, lane))
            before = T.bind(self.c[at])
            if self.layer.peephole:
                i, f = i + self._extra(place, 0, lane) * before, f + self._extra(place, 2, lane) * before
            added = sigmoid(i, T.bind) * tanh(g, T.bind)
            after = self._stored(m, 3, lane, sigmoid(f, T.bind) * before + added)
            if self.layer.peephole:
                o = o + self._extra(place, 1, lane) * after
            out = self._stored(m, 1, lane, sigmoid(o, T.bind) * tanh(after, T.bind))
            T.buffer_store(self.c, T.Select(self._live(place, m), after, before), list(at))
            self._store(place, m, lane, out)

    def _gru(self, place: _Place) -> None:
        self._gates(place, (0, 1, 2), bias_of=2)
        for m, lane, (z, r, n) in self._each(3):
            of_input = self._input(place, m, 2, lane)
            inner = self._stored(m, 1, lane, of_input + sigmoid(r, T.bind) * n)
            hidden = self._stored(m, 2, lane, tanh(inner, T.bind))
            self._mix(place, m, lane, self._stored(m, 0, lane, sigmoid(z, T.bind)), hidden)

    def _gru_reset(self, place: _Place) -> None:
        self._gates(place, (0, 1))
        for m, lane, (z, r) in self._each(2):
            at = [place.d, place.row + m, self._unit(place, lane)]
            T.buffer_store(self.c, sigmoid(z, T.bind), at)
            T.buffer_store(self.reset, sigmoid(r, T.bind) * self._before(place, m, lane), at)

    def _gru_hidden(self, place: _Place) -> None:
        self._gates(place, (2,), source="reset")
        for m, lane, (n,) in self._each(1):
            z = self.c[place.d, place.row + m, self._unit(place, lane)]
            self._mix(place, m, lane, z, self._stored(m, 0, lane, tanh(n, T.bind)))

    def _rnn(self, place: _Place) -> None:
        self._gates(place, (0,))
        for m, lane, (gate,) in self._each(1):
            self._store(place, m, lane, self._stored(m, 0, lane, self._activate(gate)))

    def _stored(self, m: Any, slot: int, lane: Any, value: Any) -> Any:
        """The value by way of a gate that is used up.

        TVM's analyses put the values of variables in their place, and grow exponentially with functions of functions.
        """
        T.buffer_store(self.gates, value, [m, slot, lane])
        return self.gates[m, slot, lane]

    def _activate(self, x: Any) -> Any:
        if self.layer.activation == "Relu":
            return T.max(x, T.float32(0))
        return {"Tanh": tanh, "Sigmoid": sigmoid}[self.layer.activation](x, T.bind)

    def _mix(self, place: _Place, m: Any, lane: Any, z: Any, hidden: Any) -> None:
        self._store(place, m, lane, T.bind(hidden + z * (self._before(place, m, lane) - hidden)))

    def _store(self, place: _Place, m: Any, lane: Any, out: Any) -> None:
        """The new h where the sequence still runs, the old one beyond its end; outputs beyond it are zero."""
        row, unit, live = place.row + m, self._unit(place, lane), self._live(place, m)
        kept = T.Select(live, out, self._before(place, m, lane))
        T.buffer_store(self.h, kept, [1 - place.parity, place.d, row, unit])
        shown = T.Select(live, out, T.float32(0))
        if self._is_whole():
            T.buffer_store(self.args.y, shown, [place.at, place.d, row, unit])
        else:
            T.buffer_store(self.gates, shown, [m, 0, lane])

    def _is_whole(self) -> bool:
        return self.num_rows == self.layer.batch and self.layer.padded == self.layer.hidden

    def _show(self, place: _Place) -> None:
        """Copy a tile's outputs, except those of padding; a condition has no place in the vector loops above."""
        with T.serial(self.plan.rows) as m, T.If(place.row + m < self.layer.batch), T.Then():
            first = place.block * self.plan.units
            with T.serial(T.min(self.plan.units, self.layer.hidden - first)) as lane:
                at = [place.at, place.d, place.row + m, first + lane]
                T.buffer_store(self.args.y, self.gates[m, 0, lane], at)

    def _before(self, place: _Place, m: Any, lane: Any) -> Any:
        return self.h[place.parity, place.d, place.row + m, self._unit(place, lane)]

    def _live(self, place: _Place, m: Any) -> Any:
        return place.at < self.args.lengths[self._sample(place, m)]

    def _input(self, place: _Place, m: Any, gate: int, lane: Any) -> Any:
        column = (place.d * self.layer.num_gates + gate) * self.layer.padded + self._unit(place, lane)
        return self.args.x[place.at, self._sample(place, m), column]

    def _extra(self, place: _Place, row: int, lane: Any) -> Any:
        return self.args.extra[place.d, row, self._unit(place, lane)]

    def _sample(self, place: _Place, m: Any) -> Any:
        """The sample of a row; rows beyond the batch repeat the last one."""
        row = place.row + m
        return row if self.num_rows == self.layer.batch else T.min(row, self.layer.batch - 1)

    def _unit(self, place: _Place, lane: Any) -> Any:
        return place.block * self.plan.units + lane
