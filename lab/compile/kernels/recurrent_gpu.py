"""The loop over time on a GPU: one block of threads per direction and sample, whose state stays in shared memory.

Shapes: as in `recurrent`.
"""

from __future__ import annotations

from typing import Any

import tvm.tirx.script.builder as T
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import PrimFunc

from lab.compile.kernels import emit
from lab.compile.kernels.recurrent import NAME, Arguments, Layer

MAX_THREADS = 1024
WARP = 32


def on_gpu(layer: Layer, num_steps: Any) -> PrimFunc:
    """The kernel; see `Arguments` for its parameters."""
    with IRBuilder() as builder:
        with T.prim_func(private=True, s_tir=True):
            T.func_name(NAME)
            _Block(layer, num_steps, Arguments(layer, num_steps)).write()
        func = builder.get()
    return emit.named(func, NAME, **layer.attributes())


class _Block:
    """Writes the kernel; a thread has every `num_threads`-th hidden unit and reads all others' states."""

    def __init__(self, layer: Layer, num_steps: Any, arguments: Arguments) -> None:
        self.layer, self.num_steps, self.args = layer, num_steps, arguments
        self.num_threads = min(MAX_THREADS, -(-layer.hidden // WARP) * WARP)
        self.num_parts = -(-layer.hidden // self.num_threads)

    def write(self) -> None:
        layer = self.layer
        blocks = T.thread_binding(layer.num_directions * layer.batch, thread="blockIdx.x")
        threads = T.thread_binding(self.num_threads, thread="threadIdx.x")
        with blocks as block, threads as thread, T.sblock(NAME):
            self.d, self.b, self.thread = block // layer.batch, block % layer.batch, thread
            self.h, self.reset = (T.alloc_buffer((layer.hidden,), "float32", scope="shared") for _ in range(2))
            # What only the unit's own thread reads: a cell (a GRU's gate z), and h until all have read the old one.
            self.c, self.next = (T.alloc_buffer((self.num_parts,), "float32", scope="local") for _ in range(2))
            self.acc = T.alloc_buffer((layer.num_gates,), "float32", scope="local")
            self._units(self._begin)
            self._sync()
            with T.serial(self.num_steps) as t:
                self._step(t)
            self._units(self._end)

    def _units(self, write: Any) -> None:
        """`write(unit)` for every unit of this thread."""
        with T.serial(self.num_parts) as part:
            self.part = part
            unit = part * self.num_threads + self.thread
            with T.If(unit < self.layer.hidden), T.Then():
                write(unit)

    def _sync(self) -> None:
        T.evaluate(T.tvm_storage_sync("shared"))

    def _begin(self, unit: Any) -> None:
        at = (self.d, self.b, unit)
        T.buffer_store(self.h, self.args.initial[0][at], [unit])
        if self.layer.cell == "LSTM":
            T.buffer_store(self.c, self.args.initial[1][at], [self.part])

    def _end(self, unit: Any) -> None:
        at = [self.d, self.b, unit]
        T.buffer_store(self.args.final[0], self.h[unit], at)
        if self.layer.cell == "LSTM":
            T.buffer_store(self.args.final[1], self.c[self.part], at)

    def _step(self, t: Any) -> None:
        back = self.num_steps - 1 - t
        reverse = self.layer.reverse
        self.at = T.Select(self.d == 1, back, t) if len(reverse) == 2 else (back if reverse[0] else t)
        if self.layer.cell == "GRU" and not self.layer.linear_before_reset:
            self._units(self._gru_reset)
            self._sync()
            self._units(self._gru_hidden)
        else:
            self._units({"LSTM": self._lstm, "GRU": self._gru, "RNN": self._rnn}[self.layer.cell])
        self._sync()
        self._units(lambda unit: T.buffer_store(self.h, self.next[self.part], [unit]))
        self._sync()

    def _gate(self, unit: Any, gate: int, source: Any, start: Any = None) -> Any:
        """acc[gate] = what the inputs add (or `start`) + the product of a state and the weights; the value."""
        T.buffer_store(self.acc, self._input(unit, gate) if start is None else start, [gate])
        with T.serial(self.layer.hidden) as k:
            product = source[k] * self.args.weights[self.d, k, gate, unit]
            T.buffer_store(self.acc, self.acc[gate] + product, [gate])
        return self.acc[gate]

    def _lstm(self, unit: Any) -> None:
        i, o, f, g = (self._gate(unit, gate, self.h) for gate in range(4))
        before = T.bind(self.c[self.part])
        peep = [self.args.extra[self.d, e, unit] if self.layer.peephole else T.float32(0) for e in range(3)]
        kept = T.sigmoid(f + peep[2] * before) * before
        after = T.bind(kept + T.sigmoid(i + peep[0] * before) * T.tanh(g))
        out = T.bind(T.sigmoid(o + peep[1] * after) * T.tanh(after))
        T.buffer_store(self.c, T.Select(self._live(), after, before), [self.part])
        self._store(unit, out)

    def _gru(self, unit: Any) -> None:
        z, r = (self._gate(unit, gate, self.h) for gate in range(2))
        n = self._gate(unit, 2, self.h, start=self.args.extra[self.d, 0, unit])
        self._mix(unit, T.sigmoid(z), T.tanh(self._input(unit, 2) + T.sigmoid(r) * n))

    def _gru_reset(self, unit: Any) -> None:
        z, r = (self._gate(unit, gate, self.h) for gate in range(2))
        T.buffer_store(self.c, T.sigmoid(z), [self.part])
        T.buffer_store(self.reset, T.sigmoid(r) * self.h[unit], [unit])

    def _gru_hidden(self, unit: Any) -> None:
        self._mix(unit, self.c[self.part], T.tanh(self._gate(unit, 2, self.reset)))

    def _rnn(self, unit: Any) -> None:
        gate = self._gate(unit, 0, self.h)
        relu = T.max(gate, T.float32(0))
        self._store(
            unit, T.bind({"Tanh": T.tanh, "Sigmoid": T.sigmoid}.get(self.layer.activation, lambda _: relu)(gate))
        )

    def _mix(self, unit: Any, z: Any, hidden: Any) -> None:
        hidden = T.bind(hidden)
        self._store(unit, T.bind(hidden + z * (self.h[unit] - hidden)))

    def _store(self, unit: Any, out: Any) -> None:
        T.buffer_store(self.next, T.Select(self._live(), out, self.h[unit]), [self.part])
        T.buffer_store(self.args.y, T.Select(self._live(), out, T.float32(0)), [self.at, self.d, self.b, unit])

    def _live(self) -> Any:
        return self.at < self.args.lengths[self.b]

    def _input(self, unit: Any, gate: int) -> Any:
        return self.args.x[self.at, self.b, (self.d * self.layer.num_gates + gate) * self.layer.padded + unit]
