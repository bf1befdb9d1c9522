"""Fetch the weights of the next block of outputs while this one is computed.

A block's weights are read in one sweep and then again from cache for every further tile of outputs. Without help the
first sweep waits for memory and the others leave it idle: a core reads 12 GB/s, and a sweep would need 50. So each tile
asks for its share of what comes next, and both go on at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm.s_tir import Schedule
from tvm.s_tir.stmt import SBlockRealize
from tvm.tirx import BufferLoad, Evaluate, For, IntImm, PrimFunc, SeqStmt
from tvm_ffi.structural import structural_map

from lab.compile.schedules.border import replace_variables
from lab.compile.schedules.kernel import extent
from lab.compile.schedules.tile import FLOAT_BYTES, Tile
from lab.compile.targets.machine import Machine

LINE_FLOATS = 16  # of a cache line
READ, SECOND_LEVEL, DATA = 0, 2, 1  # llvm.prefetch: no write, into the second-level cache, not instructions


@dataclass(frozen=True)
class Ahead:
    """What to fetch from inside one loop of a scheduled kernel.

    `loop` is the variable of the loop whose body, inner loops and all, reads `num_floats` weights in a row;
    `sweeps` are the variables and extents of the loops that repeat the whole sweep, outermost first; `distance` is how
    many floats further on the next block lies.
    """

    loop: Any
    sweeps: tuple[tuple[Any, int], ...]
    num_floats: int
    distance: Any


def next_block(
    sch: Schedule,
    steps: Any,
    sweeps: Sequence[Any],
    chunks: Any | None,
    *,
    num_taps: int,
    num_channels: int,
    tile: Tile,
) -> Ahead:
    """What comes next in weights packed as `[K/tile]RSC[tile]`: the next chunk of channels, in the end the next block.

    Args:
        steps: the loop over parts of a chunk.
        sweeps: the loops that read the same chunk again, outermost first.
        chunks: the loop over chunks of channels; None where all are reduced at once.
    """
    num_chunks = 1 if chunks is None else extent(sch, chunks)
    chunk, columns = num_channels // num_chunks, tile.num_columns
    distance: Any = num_taps * num_channels * columns
    if chunks is not None:
        last = sch.get(chunks).loop_var == num_chunks - 1
        distance = tirx.Select(last, distance - (num_channels - chunk) * columns, chunk * columns)
    passes = tuple((sch.get(loop).loop_var, extent(sch, loop)) for loop in sweeps)
    return Ahead(sch.get(steps).loop_var, passes, chunk // extent(sch, steps) * columns, distance)


def fetch_ahead(weights: Any, machine: Machine) -> bool:
    """Whether packed weights have a next block, and are too many to wait for: a network's do not stay in cache."""
    num_bytes = FLOAT_BYTES * prod(int(dim) for dim in weights.shape)
    return int(weights.shape[0]) > 1 and num_bytes > machine.l2_bytes


def prefetch_weights(func: PrimFunc, block_name: str, weights: int, ahead: Ahead) -> PrimFunc:
    """Add the requests to the loop; the function unchanged where the block does not read its parameter `weights`."""
    buffer = func.params[weights]

    def on_loop(loop: Any) -> Any:
        if not loop.loop_var.same_as(ahead.loop):
            return loop
        start = _first_index(loop.body, block_name, buffer)
        if start is None:
            return loop
        body = SeqStmt([_requests(buffer, start, ahead), loop.body])
        return For(
            loop.loop_var, loop.min, loop.extent, loop.kind, body, loop.thread_binding, loop.annotations, loop.step,
        )  # fmt: skip

    return func.with_body(structural_map(func.body, (For, on_loop)))


def _first_index(body: Any, block_name: str, buffer: Any) -> list[Any] | None:
    """Where in `buffer` the first iteration of the loops within `body` reads."""
    inner: list[Any] = []
    found: list[list[Any]] = []

    def on_loop(loop: Any) -> Any:
        inner.append(loop.loop_var)
        return loop

    def on_realize(realize: Any) -> Any:
        if not str(realize.block.name_hint).startswith(block_name):
            return realize
        iterators = [iterator.var for iterator in realize.block.iter_vars]
        values = list(zip(iterators, realize.iter_values, strict=True))

        def on_load(load: Any) -> Any:
            if load.source.same_as(buffer):
                found.append([replace_variables(index, values) for index in load.indices])
            return load

        structural_map(realize.block.body, (TensorLoad, on_load))
        return realize

    structural_map(body, (For, on_loop))
    structural_map(body, (SBlockRealize, on_realize))
    if not found:
        return None
    zeros = [(var, tirx.const(0, str(var.ty.dtype))) for var in inner]
    return [replace_variables(index, zeros) for index in found[0]]


def _requests(buffer: Any, start: list[Any], ahead: Ahead) -> Any:
    """This sweep's share of the lines of the next block that lie `distance` further on.

    Without a condition: a branch in the innermost loop costs LLVM's register allocation more than a needless request.
    Sweeps beyond those that share the lines, and the last block, ask again for what is there: pages that nobody owns
    would cost a walk through the page tables each.
    """
    num_lines = -(-ahead.num_floats // LINE_FLOATS)
    share = -(-num_lines // prod(num for _, num in ahead.sweeps))
    sweep: Any = IntImm("int64", 0)
    for var, num in ahead.sweeps:
        sweep = sweep * num + tirx.Cast("int64", var)
    position: Any = IntImm("int64", 0)
    for index, size in zip(start, buffer.shape, strict=True):
        position = position * size + index
    zero, distance = IntImm("int64", 0), tirx.Cast("int64", ahead.distance)
    there = position + distance < prod(int(dim) for dim in buffer.shape)
    offset = tirx.Select(there, distance, zero)
    offset += tirx.Select(sweep * share < num_lines, sweep * share, zero) * LINE_FLOATS
    requests = []
    for line in range(share):
        address = tirx.address_of(BufferLoad(buffer, [*start[:-1], start[-1] + offset + line * LINE_FLOATS]))
        requests.append(Evaluate(tirx.call_intrin("void", "tirx.prefetch", address, READ, SECOND_LEVEL, DATA)))
    return SeqStmt(requests) if len(requests) > 1 else requests[0]
