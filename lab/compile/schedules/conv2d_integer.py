"""Direct convolution of 8-bit numbers by dot-product instructions, with whatever follows it in registers.

Like `conv2d`, but for groups of four input channels: a tile of `num_rows` output positions x vectors of outputs stays
in registers; each step loads a group's weights once and broadcasts four bytes of input per position.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

from tvm.s_tir import Schedule

from lab.compile.kernels.integer_conv import DEPTH, PAD, PRODUCT
from lab.compile.schedules.dot_product import register
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
)
from lab.compile.schedules.tile import L1_SHARE, Tile, choose_tile, tile_options, unroll_options, with_derived
from lab.compile.schedules.tiling import (
    accumulate_by_instruction,
    parallel_outer,
    rows_per_task,
    share_by_rows,
    split,
    vectorize_last,
)
from lab.compile.targets.machine import Machine
from lab.compile.tuning.decisions import Decisions

UNROLL = 2  # groups of channels


def schedule(kernel: Kernel, machine: Machine) -> Scheduled:
    """Schedule one convolution of 8-bit numbers with whatever was fused behind it.

    Raises:
        DoesNotFit: there is no such convolution, or its neighbours do not follow its shape.
    """
    sch = Schedule(kernel.func)
    blocks = blocks_of(sch)
    product = next((block for block in blocks if block.name.startswith(PRODUCT)), None)
    if product is None:
        raise DoesNotFit("not a convolution of 8-bit numbers")
    pad = next((block for block in blocks if block.name.startswith(PAD)), None)
    epilogue = [block for block in blocks if block is not product and block is not pad]
    sizes = [extent(sch, loop) for loop in sch.get_loops(product.handle)]
    # The input's broadcast takes a register: the instruction's operand in memory is the weights.
    registers = replace(machine, broadcasts_from_memory=False)
    tile = _decide_tile(kernel.decisions, sizes, registers)
    if tile.num_columns % machine.num_lanes:
        raise DoesNotFit(f"{sizes[3]} outputs do not fill vectors")
    packings = _pack_weights(sch, product, kernel, tile)
    _tile(sch, product, pad, epilogue, tile, sizes, machine, kernel.decisions)
    return Scheduled(sch.mod["main"], packings, note=f"tile {tile.num_rows}x{tile.num_columns}, 8-bit dot products")


def _decide_tile(decisions: Decisions, sizes: list[int], machine: Machine) -> Tile:
    derived = choose_tile(sizes[2], sizes[3], machine)
    whole = [tile for tile in tile_options(sizes[2], sizes[3], machine) if tile[1] % machine.num_lanes == 0]
    size = [derived.num_rows, derived.num_columns]
    return Tile(*decisions.decide("tile", size, lambda: with_derived(size, whole)))


def _pack_weights(sch: Schedule, product: Block, kernel: Kernel, tile: Tile) -> dict[int, Packing]:
    """RSCK -> [K/tile]RS[C/4][tile][4], what one instruction reads lying together.

    Raises:
        DoesNotFit: the weights are no constant, so they cannot be stored that way.
    """
    index = constant_argument(kernel, sch.get(product.handle).reads[1].source)
    if index is None:
        raise DoesNotFit("the weights are not a constant")
    columns = tile.num_columns
    sch.transform_layout(
        product.handle, ("read", 1), lambda r, s, c, k: (k // columns, r, s, c // DEPTH, k % columns, c % DEPTH)
    )
    return {index: Packing(axis=3, tile=columns, group=DEPTH)}


def _tile(
    sch: Schedule, product: Block, pad: Block | None, epilogue: list[Block], tile: Tile, sizes: list[int],
    machine: Machine, decisions: Decisions,
) -> None:  # fmt: skip
    n, y, x, k, r, s, c = sch.get_loops(product.handle)
    num_n, num_y, num_x, num_k, num_r, num_s, num_c = sizes
    k_outer, k_inner = split(sch, k, tile.num_columns)
    vectors, lanes = split(sch, k_inner, machine.num_lanes)
    x_outer, x_inner = split(sch, x, tile.num_rows)
    groups, group = split(sch, c, DEPTH)
    unroll = UNROLL if num_c // DEPTH % UNROLL == 0 else 1
    c_outer, c_inner = split(sch, groups, decisions.decide("unroll", unroll, lambda: unroll_options(num_c // DEPTH)))
    limit = machine.l2_bytes // L1_SHARE // (num_x * num_c)
    by_rows = share_by_rows(decisions, sizes, num_r * num_s * num_c * num_k, machine)
    others = num_n if by_rows else num_n * (num_k // tile.num_columns)
    rows = decisions.decide("rows", rows_per_task(num_y, others, limit, machine), lambda: divisors(num_y))
    y_outer, y_inner = split(sch, y, rows)
    outer = [n, y_outer, k_outer] if by_rows else [k_outer, n, y_outer]
    sch.reorder(*outer, y_inner, x_outer, r, s, c_outer, c_inner, x_inner, vectors, lanes, group)
    task = parallel_outer(sch, outer, work=prod(sizes) // DEPTH)
    for loop in (c_inner, x_inner, vectors):
        sch.unroll(loop)
    if pad is not None:
        _place_padding(sch, pad, task, sizes, machine)
    accumulate_by_instruction(
        sch, product, epilogue, machine, at=x_outer, instruction=(lanes, register(machine.num_lanes)), first_reduction=r
    )


def _place_padding(sch: Schedule, pad: Block, task: Any, sizes: list[int], machine: Machine) -> None:
    """Pad inside each task where channels fill vectors; few channels are padded once, ahead of all tasks."""
    if sizes[6] >= machine.num_lanes:
        sch.compute_at(pad.handle, task)
        vectorize_last(sch, pad.handle, machine)
    else:
        parallel_outer(sch, sch.get_loops(pad.handle)[:-2], work=prod(sizes[:3]) * sizes[6])
