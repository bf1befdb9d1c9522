"""Reductions over windows or leading axes whose last output axis is contiguous: depthwise and grouped convolution,
pooling, global pooling. Vectors run over channels, a few neighbouring outputs share registers.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from tvm.s_tir import Schedule

from lab.compile.schedules.border import Loops, coefficient, skip_border
from lab.compile.schedules.kernel import (
    SPATIAL,
    Block,
    DoesNotFit,
    Kernel,
    Scheduled,
    blocks_of,
    divisors,
    extent,
    largest_divisor,
)
from lab.compile.schedules.tile import MIN_ACCUMULATORS, Tile, choose_tile, decide_tile
from lab.compile.schedules.tiling import accumulate_in_registers, parallel_outer, split, vectorize_last
from lab.compile.targets.machine import Machine
from lab.compile.tuning.decisions import Decisions

CONVOLUTION, NUM_LOOPS = "group_conv2d_nhwc", 7  # of N, Y, X, K, R, S, C
MAX_UNROLLED_WINDOW = 9
MAX_ROWS = 8  # neighbouring outputs of a tile


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
    skipped = bool(pads) and _skips_border(reduction, machine)
    for pad in pads if skipped else pads[:-1]:
        sch.compute_inline(pad.handle)
    tiled = _tile(sch, reduction, epilogue, list(spatial), list(window), machine, kernel.decisions)
    if skipped:
        row, column, tile_column = (sch.get(loop).loop_var for loop in (*window[:2], tiled.rows))
        loops = Loops(row, column, tile_column, tiled.num_rows)
        return Scheduled(skip_border(sch.mod["main"], reduction.name, loops), note="border skipped")
    if pads:
        sch.compute_at(pads[-1].handle, tiled.task)
        vectorize_last(sch, pads[-1].handle, machine)
    return Scheduled(sch.mod["main"])


def _skips_border(block: Block, machine: Machine) -> bool:
    """Whether a depthwise convolution reads its input where it is, rather than a padded copy of each task's rows.

    Making the copy takes as long as the convolution. Where multiply-adds need every operand in a register, the taps of
    a window share the inputs they load, which conditions between the taps would end.
    """
    return block.name.startswith(CONVOLUTION) and len(block.kinds) == NUM_LOOPS and machine.operands_from_memory


def _reads_contiguously(sch: Schedule, block: Block, axis: int) -> bool:
    """Whether the first input is read along its own last axis as output axis `axis` advances."""
    stmt = sch.get(block.handle)
    last = stmt.reads[0].region[-1].min
    return bool(last.same_as(stmt.iter_vars[axis].var)) or block.name.startswith(CONVOLUTION)


@dataclass(frozen=True)
class _Tiled:
    task: Any
    rows: Any | None
    """The loop over neighbouring outputs of a tile."""
    num_rows: int


def _tile(
    sch: Schedule, block: Block, epilogue: list[Block], spatial: list[Any], window: list[Any], machine: Machine,
    decisions: Decisions,
) -> _Tiled:  # fmt: skip
    window_size = prod(extent(sch, loop) for loop in window)
    work = window_size * prod(extent(sch, loop) for loop in spatial)
    has_rows = len(spatial) > 2
    num_rows = largest_divisor(extent(sch, spatial[-2]), MAX_ROWS) if has_rows else 1
    is_unrolled = has_rows and window_size <= MAX_UNROLLED_WINDOW
    num_columns = extent(sch, spatial[-1])
    if is_unrolled and not machine.operands_from_memory and num_columns % machine.num_lanes == 0:
        tile = unrolled_tile(num_rows, num_columns, _window(sch, block, window_size), machine)
    else:
        tile = choose_tile(num_rows, num_columns, machine)
    most_rows = extent(sch, spatial[-2]) if has_rows else 1
    tile = decide_tile(decisions, tile, most_rows, num_columns, machine)
    columns_outer, columns = split(sch, spatial[-1], tile.num_columns)
    if not has_rows:
        sch.reorder(*spatial[:-1], columns_outer, *window, columns)
        task = parallel_outer(sch, [*spatial[:-1], columns_outer], work)
        accumulate_in_registers(
            sch, block, epilogue, machine, at=task, rows=None, columns=columns, first_reduction=window[0]
        )
        return _Tiled(task, None, 1)
    rows_outer, rows = split(sch, spatial[-2], tile.num_rows)
    sch.reorder(*spatial[:-2], rows_outer, columns_outer, *window, rows, columns)
    task = parallel_outer(sch, spatial[:-2], work)
    accumulate_in_registers(
        sch, block, epilogue, machine, at=columns_outer, rows=rows, columns=columns, first_reduction=window[0]
    )
    if is_unrolled:
        for loop in window:
            sch.unroll(loop)
    return _Tiled(task, rows, tile.num_rows)


@dataclass(frozen=True)
class Window:
    """What neighbouring outputs read: columns `stride` apart and `offsets` from there, in each of `num_rows` rows."""

    stride: int
    offsets: frozenset[int]
    num_rows: int

    @property
    def size(self) -> int:
        return self.num_rows * len(self.offsets)

    def columns_read(self, num_outputs: int) -> int:
        """Different columns of a row; outputs close to each other share some."""
        return len({i * self.stride + offset for i in range(num_outputs) for offset in self.offsets})


def _window(sch: Schedule, block: Block, size: int) -> Window:
    """The window of `size` positions that the block reduces over, from how it indexes its first input."""
    stmt = sch.get(block.handle)
    columns = stmt.reads[0].region[-2].min
    steps = [coefficient(columns, iterator.var) for iterator in stmt.iter_vars]
    sizes = [int(iterator.dom.extent) for iterator in stmt.iter_vars]
    num_spatial = block.kinds.count(SPATIAL)  # the last but one of them runs over neighbouring outputs
    taps = zip(sizes[num_spatial:], steps[num_spatial:], strict=True)
    offsets = frozenset(sum(at) for at in product(*(range(0, size * step, step) for size, step in taps if step)))
    return Window(steps[num_spatial - 2], offsets, size // len(offsets))


def unrolled_tile(num_rows: int, num_columns: int, window: Window, machine: Machine) -> Tile:
    """The tile with the fewest loads per multiply-add where the whole window is straight-line code.

    Each input is loaded once for all positions of a row of the window, so these inputs are in registers together with
    the results and the weights of one position. A tile that needs more registers spills: 55 to 66 instead of 78 % of a
    Cortex-A72's peak by llvm-mca.
    """
    best: tuple[float, Tile] | None = None
    for rows, vectors in product(divisors(num_rows), divisors(num_columns // machine.num_lanes)):
        inputs = window.columns_read(rows)
        if best is not None and (rows + inputs + 1) * vectors > machine.num_registers:
            continue
        loads = (window.size + inputs * window.num_rows) / (window.size * rows)
        stalls = max(0.0, MIN_ACCUMULATORS / (rows * vectors) - 1)
        tile = Tile(rows, vectors * machine.num_lanes)
        best = min(best or (float("inf"), tile), (loads + stalls, tile), key=lambda item: item[0])
    assert best is not None  # one output of one vector always fits
    return best[1]
