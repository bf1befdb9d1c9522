"""Direct convolution over NHWC activations: weights packed, padding made row by row in cache, epilogue in registers.

Shapes: N batch, H W input, Y X output, C input channels, K output channels, R S kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from tvm.s_tir import Schedule

from lab.compile.schedules.border import Loops, coefficient, skip_border
from lab.compile.schedules.kernel import (
    Block,
    DoesNotFit,
    Kernel,
    Packing,
    Scheduled,
    blocks_of,
    constant_argument,
    divisors,
    extent,
    largest_divisor,
)
from lab.compile.schedules.prefetch import Ahead, fetch_ahead, next_block, prefetch_weights
from lab.compile.schedules.tile import FLOAT_BYTES, L1_SHARE, Tile, choose_tile, decide_tile, reduction_chunk
from lab.compile.schedules.tiling import (
    accumulate_in_registers,
    accumulate_over_chunks,
    parallel_outer,
    rows_per_task,
    share_by_rows,
    split,
    split_reduction,
    vectorize_last,
)
from lab.compile.targets.machine import Machine
from lab.compile.tuning.decisions import Decisions

CONVOLUTIONS = ("conv2d_nhwc", "group_conv2d_nhwc")
MIN_GROUP = 4  # input channels of a group; with fewer there is nothing to share between outputs
ADDRESSES = 2  # registers that address the inputs of a tile; LLVM's loops stay whole with two, and not with four
MIN_REACHED = 7  # output positions of a tile; with fewer, loads of weights cost more than addresses do
CHUNKS_FROM = 32  # input channels that tuning tries to reduce at a time


def schedule(kernel: Kernel, machine: Machine) -> Scheduled:
    """Schedule one `conv2d_nhwc` with whatever was fused behind it.

    Raises:
        DoesNotFit: there is no such convolution, or its neighbours do not follow its shape.
    """
    sch = Schedule(kernel.func)
    blocks = blocks_of(sch)
    at = next((i for i, block in enumerate(blocks) if block.name.startswith(CONVOLUTIONS)), None)
    if at is None or len(blocks[at].kinds) != 7:
        raise DoesNotFit("not a two-dimensional NHWC convolution")
    pads, conv, epilogue = blocks[:at], blocks[at], blocks[at + 1 :]
    for pad in pads[:-1]:
        sch.compute_inline(pad.handle)
    sizes = [extent(sch, loop) for loop in sch.get_loops(conv.handle)]
    dilated = bool(pads) and max(_dilation(sch, conv)) > 1
    if dilated:
        sch.compute_inline(pads[-1].handle)
    num_groups = _groups(sch, conv, sizes)
    num_reached, num_k = _rows_in_reach(sch, conv, sizes[2], machine), sizes[3] // num_groups
    tile = decide_tile(kernel.decisions, choose_tile(num_reached, num_k, machine), sizes[2], num_k, machine)
    packings = _pack_weights(sch, conv, kernel, tile)
    tiled = _tile(sch, conv, epilogue, tile, sizes, machine, kernel.decisions)
    note = f"tile {tile.num_rows}x{tile.num_columns}"
    if dilated:
        row, column, tile_column = (sch.get(loop).loop_var for loop in tiled.border)
        loops = Loops(row, column, tile_column, tile.num_rows)
        return Scheduled(skip_border(sch.mod["main"], conv.name, loops), packings, note=note + ", border skipped")
    if pads:
        _place_padding(sch, pads[-1], tiled.task, sizes, machine)
    func = sch.mod["main"]
    index = next(iter(packings), None)
    if index is not None and tiled.ahead is not None and fetch_ahead(func.params[index], machine):
        func = prefetch_weights(func, conv.name, index, tiled.ahead)
    return Scheduled(func, packings, note=note)


def _groups(sch: Schedule, conv: Block, sizes: list[int]) -> int:
    """Groups that the channels fall into. A tile of outputs lies within one, so that its inputs are the same channels.

    Raises:
        DoesNotFit: a group has too few channels to reduce; depthwise convolution has one.
    """
    if not conv.name.startswith("group_"):
        return 1
    if sizes[6] < MIN_GROUP:
        raise DoesNotFit(f"groups of {sizes[6]} input channels")
    return int(sch.get(conv.handle).reads[0].source.shape[3]) // sizes[6]


def _rows_in_reach(sch: Schedule, conv: Block, num_x: int, machine: Machine) -> int:
    """Output positions of a row, of which a tile's must divide, so that few registers address a tile's inputs.

    Of 14 positions of 1024 channels LLVM keeps the addresses in so many that it spills: 86 instead of 99 % of a
    Cortex-A72's peak by llvm-mca. A row that only a tile of few positions would divide (19) stays whole all the same.
    """
    if machine.load_reach is None:
        return num_x
    stmt = sch.get(conv.handle)
    stride = coefficient(stmt.reads[0].region[2].min, stmt.iter_vars[2].var)
    step = FLOAT_BYTES * stride * int(stmt.reads[0].source.shape[3])
    reached = largest_divisor(num_x, 1 + ADDRESSES * machine.load_reach // step)
    return reached if reached >= min(MIN_REACHED, num_x) else num_x


def _dilation(sch: Schedule, conv: Block) -> list[int]:
    """Rows and columns of the input between neighbouring kernel positions, from how the block indexes its input."""
    stmt = sch.get(conv.handle)
    region, iterators = stmt.reads[0].region, [var.var for var in stmt.iter_vars]
    return [coefficient(region[1].min, iterators[4]), coefficient(region[2].min, iterators[5])]


def _pack_weights(sch: Schedule, conv: Block, kernel: Kernel, tile: Tile) -> dict[int, Packing]:
    """RSCK -> [K/tile]RSC[tile], when the weights are a constant that can be stored that way."""
    weights = sch.get(conv.handle).reads[1].source
    index = constant_argument(kernel, weights)
    if index is None or int(weights.shape[3]) == tile.num_columns:
        return {}
    columns = tile.num_columns
    sch.transform_layout(conv.handle, ("read", 1), lambda r, s, c, k: (k // columns, r, s, c, k % columns))
    return {index: Packing(axis=3, tile=columns)}


@dataclass(frozen=True)
class _Tiled:
    task: Any
    border: tuple[Any, Any, Any]
    """The loops over kernel rows, kernel columns and the output columns of a tile."""
    ahead: Ahead | None


def _tile(
    sch: Schedule, conv: Block, epilogue: list[Block], tile: Tile, sizes: list[int], machine: Machine,
    decisions: Decisions,
) -> _Tiled:  # fmt: skip
    n, y, x, k, r, s, c = sch.get_loops(conv.handle)
    num_n, num_y, num_x, num_k, num_r, num_s, num_c = sizes
    chunk = reduction_chunk(num_c, num_r * num_s, num_y * num_x, tile, machine)
    chunk = decisions.decide(
        "channels", chunk, lambda: [c for c in reversed(divisors(num_c)) if c >= CHUNKS_FROM or c in (num_c, chunk)]
    )
    k_outer, k_inner = split(sch, k, tile.num_columns)
    x_outer, x_inner = split(sch, x, tile.num_rows)
    chunks, c = ([], c) if chunk == num_c else split(sch, c, chunk)
    c_steps, c_outer, c_inner = split_reduction(sch, c, decisions)
    by_rows = share_by_rows(decisions, sizes, FLOAT_BYTES * num_r * num_s * num_c * num_k, machine)
    limit = machine.l2_bytes // L1_SHARE // (FLOAT_BYTES * num_x * chunk)
    others = num_n if by_rows else num_n * (num_k // tile.num_columns)
    rows = decisions.decide("rows", rows_per_task(num_y, others, limit, machine), lambda: divisors(num_y))
    y_outer, y_inner = split(sch, y, rows)
    outer = [n, y_outer, k_outer] if by_rows else [k_outer, n, y_outer]
    sch.reorder(
        *outer, *([chunks] if chunk < num_c else []), y_inner, x_outer, r, s, c_steps, c_outer, c_inner,
        x_inner, k_inner,
    )  # fmt: skip
    task = parallel_outer(sch, outer, work=prod(sizes))
    if chunk == num_c:
        accumulate_in_registers(
            sch, conv, epilogue, machine, at=x_outer, rows=x_inner, columns=k_inner, first_reduction=r
        )
    else:
        accumulate_over_chunks(sch, conv, epilogue, machine, at=task, rows=x_inner, columns=k_inner, chunks=chunks)
    sch.unroll(c_inner)
    ahead = next_block(
        sch, c_steps, [y_inner, x_outer], chunks if chunk < num_c else None,
        num_taps=num_r * num_s, num_channels=num_c, tile=tile,
    )  # fmt: skip
    return _Tiled(task if chunk == num_c else chunks, (r, s, x_inner), ahead)


def _place_padding(sch: Schedule, pad: Block, task: Any, sizes: list[int], machine: Machine) -> None:
    """Pad inside each task where channels fill vectors; few channels are padded once, ahead of all tasks."""
    if sizes[4] == sizes[5] == 1:
        sch.compute_inline(pad.handle)
    elif sizes[6] >= machine.num_lanes:
        sch.compute_at(pad.handle, task)
        vectorize_last(sch, pad.handle, machine)
    else:
        loops = sch.get_loops(pad.handle)
        parallel_outer(sch, loops[:-2], work=sizes[0] * sizes[1] * sizes[2] * sizes[6])
