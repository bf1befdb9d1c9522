"""Kernels without a reduction: everything inlined into the outputs, which run in parallel and in vectors."""

from __future__ import annotations

from tvm.s_tir import Schedule

from lab.compile.schedules.kernel import Block, DoesNotFit, Kernel, Scheduled, assumed, blocks_of, is_open
from lab.compile.schedules.tiling import SERIAL_WORK, parallel_outer, split, vectorize_last
from lab.compile.targets.machine import Machine


def schedule(kernel: Kernel, machine: Machine) -> Scheduled:
    """Schedule a kernel whose blocks are all elementwise, broadcasting, or rearrange elements.

    Raises:
        DoesNotFit: a block reduces.
    """
    sch = Schedule(kernel.func)
    blocks = blocks_of(sch)
    if any(block.is_reduction for block in blocks):
        raise DoesNotFit("a block reduces")
    for block in blocks[:-1]:
        sch.compute_inline(block.handle)
    spatial(sch, blocks[-1], machine)
    return Scheduled(sch.mod["main"])


def spatial(sch: Schedule, block: Block, machine: Machine) -> None:
    """Run one block without reduction in parallel over its outer loops and in vectors over the last."""
    loops = list(sch.get_loops(block.handle))
    if not loops:
        return
    work = 1
    for loop in loops:
        work *= assumed(sch, loop)
    any_open = any(is_open(sch, loop) for loop in loops)
    if not any_open and is_pointwise(sch, block) and work % machine.num_lanes == 0:
        flat = sch.fuse(*loops) if len(loops) > 1 else loops[0]
        outer, lanes = split(sch, flat, machine.num_lanes)
        sch.vectorize(lanes)
        parallel_outer(sch, [outer], work)
        return
    if len(loops) > 1:
        parallel_outer(sch, loops[:-1], work)
        vectorize_last(sch, block.handle, machine)
    elif work > SERIAL_WORK and not any_open:
        outer, _ = split(sch, loops[0], machine.num_lanes)
        parallel_outer(sch, [outer], work)
    else:
        vectorize_last(sch, block.handle, machine)


def is_pointwise(sch: Schedule, block: Block) -> bool:
    """Whether every operand is read at exactly the position that is written, so that all loops may become one."""
    stmt = sch.get(block.handle)
    iterators = [var.var for var in stmt.iter_vars]
    shape = [str(size) for size in stmt.writes[0].source.shape]
    for access in (*stmt.reads, *stmt.writes):
        if [str(size) for size in access.source.shape] != shape or len(access.region) != len(iterators):
            return False
        if not all(entry.min.same_as(var) for entry, var in zip(access.region, iterators, strict=True)):
            return False
    return True
