"""The rule for kernels no other rule fits: each block by itself, in parallel over its outputs and in vectors.

Covers softmax, normalisations, reductions over the last axis, and whatever a graph nobody foresaw brings.
"""

from __future__ import annotations

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
    extent,
    is_open,
    largest_divisor,
)
from lab.compile.schedules.tiling import parallel_outer, split
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
    left = {block.name for block in blocks_of(sch)}
    for block in blocks:
        if block.name not in left:
            continue
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
