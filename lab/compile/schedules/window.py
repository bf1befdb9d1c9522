"""Reductions over windows or leading axes whose last output axis is contiguous: depthwise and grouped convolution,
pooling, global pooling. Vectors run over channels, a few neighbouring outputs share registers.
"""

from __future__ import annotations

from typing import Any

from tvm.s_tir import Schedule

from lab.compile.schedules.kernel import Block, DoesNotFit, Kernel, Scheduled, blocks_of, extent, largest_divisor
from lab.compile.schedules.tiling import (
    accumulate_in_registers,
    choose_tile,
    parallel_outer,
    split,
    vectorize_last,
)
from lab.compile.targets.machine import Machine

MAX_UNROLLED_WINDOW = 9


def schedule(kernel: Kernel, machine: Machine) -> Scheduled:
    """Schedule a kernel with exactly one reduction, whose spatial axes come first and whose last one has vectors.

    Raises:
        DoesNotFit: another number of reductions, or the last output axis is too short or read across.
    """
    sch = Schedule(kernel.func)
    blocks = blocks_of(sch)
    reductions = [i for i, block in enumerate(blocks) if block.is_reduction]
    if len(reductions) != 1:
        raise DoesNotFit(f"{len(reductions)} reductions instead of one")
    at = reductions[0]
    pads, reduction, epilogue = blocks[:at], blocks[at], blocks[at + 1 :]
    num_spatial = reduction.kinds.count(0)
    if list(reduction.kinds) != sorted(reduction.kinds) or num_spatial < 2:
        raise DoesNotFit("the reduction has no outer and inner output axes")
    loops = sch.get_loops(reduction.handle)
    spatial, window = loops[:num_spatial], loops[num_spatial:]
    if extent(sch, spatial[-1]) * 4 < machine.num_lanes or not _reads_contiguously(sch, reduction, num_spatial - 1):
        raise DoesNotFit("the last output axis does not fill vectors")
    for pad in pads[:-1]:
        sch.compute_inline(pad.handle)
    task = _tile(sch, reduction, epilogue, list(spatial), list(window), machine)
    if pads:
        sch.compute_at(pads[-1].handle, task)
        vectorize_last(sch, pads[-1].handle, machine)
    return Scheduled(sch.mod["main"])


def _reads_contiguously(sch: Schedule, block: Block, axis: int) -> bool:
    """Whether the first input is read along its own last axis as output axis `axis` advances."""
    stmt = sch.get(block.handle)
    last = stmt.reads[0].region[-1].min
    return bool(last.same_as(stmt.iter_vars[axis].var)) or block.name.startswith("group_conv")


def _tile(
    sch: Schedule, block: Block, epilogue: list[Block], spatial: list[Any], window: list[Any], machine: Machine
) -> Any:
    work = 1
    for loop in (*spatial, *window):
        work *= extent(sch, loop)
    has_rows = len(spatial) > 2
    num_rows = extent(sch, spatial[-2]) if has_rows else 1
    tile = choose_tile(largest_divisor(num_rows, 8), extent(sch, spatial[-1]), machine)
    columns_outer, columns = split(sch, spatial[-1], tile.num_columns)
    window_size = 1
    for loop in window:
        window_size *= extent(sch, loop)
    if not has_rows:
        sch.reorder(*spatial[:-1], columns_outer, *window, columns)
        task = parallel_outer(sch, [*spatial[:-1], columns_outer], work)
        accumulate_in_registers(
            sch, block, epilogue, machine, at=task, rows=None, columns=columns, first_reduction=window[0]
        )
        return task
    rows_outer, rows = split(sch, spatial[-2], tile.num_rows)
    sch.reorder(*spatial[:-2], rows_outer, columns_outer, *window, rows, columns)
    task = parallel_outer(sch, spatial[:-2], work)
    accumulate_in_registers(
        sch, block, epilogue, machine, at=columns_outer, rows=rows, columns=columns, first_reduction=window[0]
    )
    if window_size <= MAX_UNROLLED_WINDOW:
        for loop in window:
            sch.unroll(loop)
    return task
