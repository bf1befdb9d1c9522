"""Direct convolution over NHWC activations: weights packed, padding made row by row in cache, epilogue in registers.

Shapes: N batch, H W input, Y X output, C input channels, K output channels, R S kernel.
"""

from __future__ import annotations

from math import prod
from typing import Any

from tvm.s_tir import Schedule

from lab.compile.schedules.kernel import (
    Block,
    DoesNotFit,
    Kernel,
    Packing,
    Scheduled,
    blocks_of,
    constant_argument,
    extent,
)
from lab.compile.schedules.tiling import (
    L1_SHARE,
    UNROLL,
    Tile,
    accumulate_in_registers,
    choose_tile,
    parallel_outer,
    rows_per_task,
    split,
    vectorize_last,
)
from lab.compile.targets.machine import Machine

FLOAT_BYTES = 4


def schedule(kernel: Kernel, machine: Machine) -> Scheduled:
    """Schedule one `conv2d_nhwc` with whatever was fused behind it.

    Raises:
        DoesNotFit: there is no such convolution, or its neighbours do not follow its shape.
    """
    sch = Schedule(kernel.func)
    blocks = blocks_of(sch)
    at = next((i for i, block in enumerate(blocks) if block.name.startswith("conv2d_nhwc")), None)
    if at is None or len(blocks[at].kinds) != 7:
        raise DoesNotFit("not a two-dimensional NHWC convolution")
    pads, conv, epilogue = blocks[:at], blocks[at], blocks[at + 1 :]
    for pad in pads[:-1]:
        sch.compute_inline(pad.handle)
    sizes = [extent(sch, loop) for loop in sch.get_loops(conv.handle)]
    tile = choose_tile(sizes[2], sizes[3], machine)
    packings = _pack_weights(sch, conv, kernel, tile)
    task = _tile(sch, conv, epilogue, tile, sizes, machine)
    if pads:
        _place_padding(sch, pads[-1], task, sizes, machine)
    return Scheduled(sch.mod["main"], packings, note=f"tile {tile.num_rows}x{tile.num_columns}")


def _pack_weights(sch: Schedule, conv: Block, kernel: Kernel, tile: Tile) -> dict[int, Packing]:
    """RSCK -> [K/tile]RSC[tile], when the weights are a constant that can be stored that way."""
    weights = sch.get(conv.handle).reads[1].source
    index = constant_argument(kernel, weights)
    if index is None or int(weights.shape[3]) == tile.num_columns:
        return {}
    columns = tile.num_columns
    sch.transform_layout(conv.handle, ("read", 1), lambda r, s, c, k: (k // columns, r, s, c, k % columns))
    return {index: Packing(axis=3, tile=columns)}


def _tile(sch: Schedule, conv: Block, epilogue: list[Block], tile: Tile, sizes: list[int], machine: Machine) -> Any:
    n, y, x, k, r, s, c = sch.get_loops(conv.handle)
    num_n, num_y, num_x, num_k, num_r, num_s, num_c = sizes
    k_outer, k_inner = split(sch, k, tile.num_columns)
    x_outer, x_inner = split(sch, x, tile.num_rows)
    c_outer, c_inner = split(sch, c, UNROLL if num_c % UNROLL == 0 else 1)
    row_bytes = FLOAT_BYTES * num_x * num_c
    rows = rows_per_task(num_y, num_n * (num_k // tile.num_columns), machine.l2_bytes // L1_SHARE // row_bytes, machine)
    y_outer, y_inner = split(sch, y, rows)
    weight_bytes = FLOAT_BYTES * num_r * num_s * num_c * num_k
    # Whatever is larger stays in cache between neighbouring tasks: one block of weights, or one image.
    outer = [k_outer, n, y_outer] if weight_bytes > machine.l2_bytes // L1_SHARE else [n, k_outer, y_outer]
    sch.reorder(*outer, y_inner, x_outer, r, s, c_outer, c_inner, x_inner, k_inner)
    task = parallel_outer(sch, outer, work=prod(sizes))
    accumulate_in_registers(sch, conv, epilogue, machine, at=x_outer, rows=x_inner, columns=k_inner, first_reduction=r)
    sch.unroll(c_inner)
    return task


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
