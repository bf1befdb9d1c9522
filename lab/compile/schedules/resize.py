"""Bilinear resizing: the rows of one output row are mixed into a buffer in cache, from which its columns are mixed."""

from __future__ import annotations

from math import prod

from tvm.s_tir import Schedule

from lab.compile.kernels.bilinear import COLUMNS, ROWS
from lab.compile.schedules.kernel import DoesNotFit, Kernel, Scheduled, blocks_of, extent
from lab.compile.schedules.tiling import parallel_outer, vectorize_last
from lab.compile.targets.machine import Machine


def schedule(kernel: Kernel, machine: Machine) -> Scheduled:
    """Schedule a resize of `lab.compile.kernels.resize` with the elementwise blocks behind it.

    Raises:
        DoesNotFit: it is another kernel.
    """
    sch = Schedule(kernel.func)
    blocks = blocks_of(sch)
    names = [block.name for block in blocks]
    if names[:2] != [ROWS, COLUMNS]:
        raise DoesNotFit("not a bilinear resize")
    rows, columns, last = blocks[0], blocks[1], blocks[-1]
    for block in blocks[2:-1]:
        sch.compute_inline(block.handle)
    loops = list(sch.get_loops(last.handle))
    work = prod(extent(sch, loop) for loop in loops)
    if last is not columns:
        # Not inlined: what it reads is declared, since no analysis can bound an index from a table.
        sch.compute_at(columns.handle, loops[1])
        vectorize_last(sch, columns.handle, machine)
    sch.compute_at(rows.handle, loops[1])
    parallel_outer(sch, loops[:2], work)
    vectorize_last(sch, rows.handle, machine)
    vectorize_last(sch, last.handle, machine)
    return Scheduled(sch.mod["main"])
