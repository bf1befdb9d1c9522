"""The rule for kernels no other rule fits: each block by itself, in parallel over its outputs and in vectors.

Covers softmax, normalisations, reductions over the last axis, and whatever a graph nobody foresaw brings.
"""

from __future__ import annotations

from math import prod
from typing import Any

from tvm.s_tir import Schedule

from lab.compile.schedules.elementwise import spatial
from lab.compile.schedules.kernel import (
    Block,
    DoesNotFit,
    Kernel,
    Scheduled,
    assumed,
    blocks_of,
    divisors,
    extent,
    is_open,
    largest_divisor,
)
from lab.compile.schedules.tiling import parallel_outer, split, vectorize_last
from lab.compile.targets.machine import Machine


def schedule(kernel: Kernel, machine: Machine) -> Scheduled:
    """Schedule every block of any kernel made of plain loop nests.

    Raises:
        DoesNotFit: the kernel is not made of plain loop nests.
    """
    sch = Schedule(kernel.func)
    blocks = blocks_of(sch)
    for block in blocks[:-1]:
        if not block.is_reduction and _is_cheap(sch, block):
            sch.compute_inline(block.handle)
    left = blocks_of(sch)
    if len(left) > 1 and _share_rows(sch, left):
        _row_by_row(sch, left, machine)
        return Scheduled(sch.mod["main"], note="row by row")
    for block in left:
        if block.is_reduction:
            _reduction(sch, block, machine)
        else:
            spatial(sch, block, machine)
    return Scheduled(sch.mod["main"])


def _is_cheap(sch: Schedule, block: Block) -> bool:
    """Inlining repeats work per reader: only for one reader that is not a reduction, or for a plain copy (padding)."""
    readers = list(sch.get_consumers(block.handle))
    if len(readers) != 1:
        return False
    reader = sch.get(readers[0])
    return not any(int(var.iter_type) == 2 for var in reader.iter_vars)


def _reduction(sch: Schedule, block: Block, machine: Machine) -> None:
    loops = list(sch.get_loops(block.handle))
    outputs = [loop for loop, kind in zip(loops, block.kinds, strict=True) if kind == 0]
    reduced = [loop for loop, kind in zip(loops, block.kinds, strict=True) if kind == 2]
    work = 1
    for loop in loops:
        work *= assumed(sch, loop)
    if not outputs:
        raise DoesNotFit("everything is reduced to one value")
    if _reads_in_order(sch, block, reduced[-1], machine):
        _reduction_in_lanes(sch, block, outputs, reduced[-1], machine, work)
        return
    if is_open(sch, outputs[-1]):
        _reduction_of_open(sch, block, outputs, reduced, work)
        return
    lanes = largest_divisor(extent(sch, outputs[-1]), 2 * machine.num_lanes)
    if lanes * 4 < machine.num_lanes or not _last_axis_is_contiguous(sch, block):
        sch.reorder(*outputs, *reduced)
        parallel_outer(sch, outputs, work)
        return
    outer, inner = split(sch, outputs[-1], lanes)
    sch.reorder(*outputs[:-1], outer, *reduced, inner)
    parallel_outer(sch, [*outputs[:-1], outer], work)
    _vectorize(sch, inner)
    init = sch.decompose_reduction(block.handle, reduced[0])
    _vectorize(sch, sch.get_loops(init)[-1])


def _reads_in_order(sch: Schedule, block: Block, last: Any, machine: Machine) -> bool:
    """Whether the reduction runs along the last axis of all it reads that has one, and is worth vectors."""
    if is_open(sch, last) or not _num_chains(extent(sch, last), machine):
        return False
    stmt = sch.get(block.handle)
    along, num_writes = stmt.iter_vars[-1].var, len(stmt.writes)
    return num_writes == 1 and any(read.region[-1].min.same_as(along) for read in stmt.reads if len(read.region))


def _num_chains(num: int, machine: Machine) -> int:
    """Into how many interleaved parts to divide a reduction over `num` elements; 0 where none divides them well.

    Each part is a chain of additions, and so is what adds up the parts.
    """
    parts = [part for part in divisors(num) if part % (machine.num_lanes // 2) == 0 and part < num]
    return min(parts, key=lambda part: num // part + part, default=0)


def _reduction_in_lanes(
    sch: Schedule, block: Block, outputs: list[Any], last: Any, machine: Machine, work: int
) -> None:
    partial = _partial(sch, block, last, machine)
    task = parallel_outer(sch, sch.get_loops(block.handle)[: len(outputs)], work)
    _place_partial(sch, partial, task)


def _partial(sch: Schedule, block: Block, last: Any, machine: Machine) -> Any:
    """A block in which each lane reduces every eighth or sixteenth element; what is left of `block` reduces the lanes.

    One chain of additions would wait for itself, four cycles an element; LLVM may not change their order.
    """
    _, lanes = split(sch, last, _num_chains(extent(sch, last), machine))
    partial = sch.rfactor(lanes, block.kinds.count(0))
    sch.set_scope(partial, 0, "local")
    return partial


def _place_partial(sch: Schedule, partial: Any, task: Any) -> None:
    sch.compute_at(partial, task)
    *_, lanes, steps = sch.get_loops(partial)
    sch.reorder(steps, lanes)
    sch.vectorize(lanes)
    init = sch.decompose_reduction(partial, steps)
    _vectorize(sch, sch.get_loops(init)[-1])


def _share_rows(sch: Schedule, blocks: list[Block]) -> bool:
    """Whether all blocks work on the same rows, as those of a softmax or a layer normalisation do."""
    shape = [sch.get(loop).extent for loop in sch.get_loops(blocks[-1].handle)]
    if blocks[-1].is_reduction or len(shape) < 2 or not any(block.is_reduction for block in blocks):
        return False
    if not all(hasattr(size, "value") for size in shape):
        return False
    rows = [int(size) for size in shape[:-1]]
    between = [sch.get(block.handle).writes[0].source for block in blocks[:-1]]
    for block in blocks:
        loops = sch.get_loops(block.handle)
        sizes = [getattr(sch.get(loop).extent, "value", None) for loop in loops]
        if sizes[: len(rows)] != rows or len(sizes) > len(shape) or 2 in block.kinds[: len(rows)]:
            return False
        stmt = sch.get(block.handle)
        own = [access for access in stmt.reads if any(access.source.same_as(buffer) for buffer in between)]
        if not all(_starts_with_rows(access, stmt.iter_vars[: len(rows)]) for access in (*stmt.writes, *own)):
            return False
    return True


def _starts_with_rows(access: Any, iterators: Any) -> bool:
    return all(entry.min.same_as(axis.var) for entry, axis in zip(access.region, iterators, strict=False))


def _row_by_row(sch: Schedule, blocks: list[Block], machine: Machine) -> None:
    """A task does everything for its rows: they stay in the first-level cache, and cores meet once, not per block."""
    loops = sch.get_loops(blocks[-1].handle)
    work = prod(extent(sch, loop) for loop in loops) * len(blocks)
    partials = {
        block.name: _partial(sch, block, sch.get_loops(block.handle)[-1], machine)
        for block in blocks
        if block.is_reduction and _reads_in_order(sch, block, sch.get_loops(block.handle)[-1], machine)
    }
    task = parallel_outer(sch, loops[:-1], work)
    for block in reversed(blocks[:-1]):
        sch.compute_at(block.handle, task)
        if len(block.kinds) == len(loops) - 1 or block.is_reduction:
            sch.set_scope(block.handle, 0, "local")
        if block.name in partials:
            _place_partial(sch, partials[block.name], task)
            lanes = sch.get_loops(block.handle)[-1]
            sch.decompose_reduction(block.handle, lanes)
            sch.unroll(lanes)
        elif not block.is_reduction and len(block.kinds) == len(loops):
            vectorize_last(sch, block.handle, machine)
    vectorize_last(sch, blocks[-1].handle, machine)


def _reduction_of_open(sch: Schedule, block: Block, outputs: list[Any], reduced: list[Any], work: int) -> None:
    """The last output axis is open: innermost where it is read in order, so that LLVM's vectoriser takes it."""
    in_order = _last_axis_is_contiguous(sch, block)
    sch.reorder(*outputs[:-1], *reduced, outputs[-1]) if in_order else sch.reorder(*outputs, *reduced)
    outer = outputs[:-1] if in_order else outputs
    if outer:
        parallel_outer(sch, outer, work)
    if in_order:
        sch.decompose_reduction(block.handle, reduced[0])


def _last_axis_is_contiguous(sch: Schedule, block: Block) -> bool:
    """Whether some operand is read along its last axis as the last output axis advances."""
    stmt = sch.get(block.handle)
    last_output = [var.var for var in stmt.iter_vars if int(var.iter_type) == 0][-1]
    return any(read.region[-1].min.same_as(last_output) for read in stmt.reads if len(read.region))


def _vectorize(sch: Schedule, loop: Any) -> None:
    if extent(sch, loop) > 1:
        sch.vectorize(loop)
