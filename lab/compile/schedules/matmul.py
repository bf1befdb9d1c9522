"""Matrix product (dense layers, batched products): the register tile over [rows, columns], right-hand side packed.

Shapes: M rows, N columns, C reduction; leading dimensions are batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from tvm.s_tir import Schedule

from lab.compile.schedules.elementwise import spatial
from lab.compile.schedules.kernel import (
    OPEN_EXTENT,
    Block,
    DoesNotFit,
    Kernel,
    Packing,
    Scheduled,
    assumed,
    blocks_of,
    constant_argument,
    extent,
    is_open,
    known_factor,
)
from lab.compile.schedules.prefetch import Ahead, fetch_ahead, next_block, prefetch_weights
from lab.compile.schedules.tile import (
    MAX_COLUMNS,
    UNROLL,
    Tile,
    choose_tile,
    decide_tile,
    reduction_chunk,
    tile_cost,
    unroll_options,
)
from lab.compile.schedules.tiling import (
    accumulate_in_registers,
    accumulate_over_chunks,
    parallel_outer,
    rows_per_task,
    split,
    split_reduction,
    vectorize_last,
)
from lab.compile.targets.machine import Machine
from lab.compile.tuning.decisions import Decisions

PADDING_COST = 1.1  # of copying what is filled up, in multiples of the product's own time


@dataclass(frozen=True)
class Loops:
    """Of the batches, and M, N and C."""

    batch: list[Any]
    m: Any
    n: Any
    c: Any
    shared: bool
    """Whether all batches have the same right-hand side: they are rows like any others."""


def schedule(kernel: Kernel, machine: Machine) -> Scheduled:
    """Schedule one `matmul` with whatever was fused behind it.

    Raises:
        DoesNotFit: there is no such product, it has no row axis, or something was fused ahead of it.
    """
    sch = Schedule(kernel.func)
    blocks = blocks_of(sch)
    at = next((i for i, block in enumerate(blocks) if block.name.startswith(("matmul", "T_matmul"))), None)
    if at is None or blocks[at].kinds[-1] != 2 or blocks[at].kinds.count(2) != 1 or len(blocks[at].kinds) < 3:
        raise DoesNotFit("not a matrix product")
    for block in blocks[:at]:
        sch.compute_inline(block.handle)
    matmul, epilogue = blocks[at], blocks[at + 1 :]
    loops = _loops(sch, matmul)
    open_rows, num_rows, num_columns = is_open(sch, loops.m), known_factor(sch, loops.m), extent(sch, loops.n)
    if not open_rows:
        is_constant = constant_argument(kernel, sch.get(matmul.handle).reads[1].source) is not None
        num_rows, num_columns = _filled(num_rows, num_columns, machine, columns_too=not is_constant)
    elif num_rows == 1:
        num_rows = OPEN_EXTENT
    derived = choose_tile(num_rows, num_columns, machine)
    tile = decide_tile(kernel.decisions, derived, num_rows, num_columns, machine)
    filled = _fill_tiles(sch, matmul, loops, epilogue, tile)
    loops = _loops(sch, matmul)
    packings = _pack_weights(sch, matmul, kernel, tile)
    task, ahead = _tile(sch, matmul, filled.epilogue, loops, tile, machine, kernel.decisions)
    for pad in filled.pads:
        if open_rows:
            sch.compute_at(pad.handle, task)
            vectorize_last(sch, pad.handle, machine)
        else:
            spatial(sch, pad, machine)
    if filled.apart:
        for block in filled.apart[:-1]:
            sch.compute_inline(block.handle)
        spatial(sch, filled.apart[-1], machine)
    note = f"tile {tile.num_rows}x{tile.num_columns}"
    if filled.pads:
        note += ", any number of rows" if open_rows else ", filled up to whole tiles"
    func, index = sch.mod["main"], next(iter(packings), None)
    if index is not None and ahead is not None and fetch_ahead(func.params[index], machine):
        func = prefetch_weights(func, matmul.name, index, ahead)
    return Scheduled(func, packings, note=note)


def _loops(sch: Schedule, matmul: Block) -> Loops:
    """Where each batch is one row and all share the right-hand side, the last batch loop is M."""
    *batch, m, n, c = sch.get_loops(matmul.handle)
    shared = len(sch.get(matmul.handle).reads[1].source.shape) == 2
    if batch and shared and not is_open(sch, m) and extent(sch, m) == 1 and not is_open(sch, batch[-1]):
        return Loops([*batch[:-1], m], batch[-1], n, c, shared)
    return Loops(batch, m, n, c, shared)


def _filled(num_rows: int, num_columns: int, machine: Machine, *, columns_too: bool) -> tuple[int, int]:
    """Rows and columns to compute: filled up to whole tiles where that pays, as no good tile divides a prime number.

    197 rows, a vision transformer's, took twice ONNX Runtime's time a row at a time. Columns of constants stay as they
    are: odd numbers of them are cut into vectors.
    """
    plain = tile_cost(choose_tile(num_rows, num_columns, machine), machine)
    best = (plain, num_rows, num_columns)
    for rows in range(1, machine.num_registers):
        for vectors in range(1, MAX_COLUMNS + 1):
            columns = vectors * machine.num_lanes
            if not machine.fits_registers(rows, vectors) or (not columns_too and num_columns % columns):
                continue
            whole = -(-num_rows // rows) * rows, -(-num_columns // columns) * columns
            cost = PADDING_COST * tile_cost(Tile(rows, columns), machine) * prod(whole) / (num_rows * num_columns)
            best = min(best, (cost, *whole))
    return best[1:]


@dataclass(frozen=True)
class Filled:
    """What became of a product whose rows or columns are filled up to whole tiles.

    `pads` fill its operands; `apart` is what cannot run within a tile, since it drops columns: a condition on columns
    would take the vectors of a tile's results apart.
    """

    pads: list[Block]
    epilogue: list[Block]
    apart: list[Block]


def _fill_tiles(sch: Schedule, matmul: Block, loops: Loops, epilogue: list[Block], tile: Tile) -> Filled:
    """Whole tiles of rows and columns, so that conditions stay out of the innermost loop."""
    whole_rows = not is_open(sch, loops.m) and extent(sch, loops.m) % tile.num_rows == 0
    rows = 1 if whole_rows or known_factor(sch, loops.m) % tile.num_rows == 0 else tile.num_rows
    columns = 1 if extent(sch, loops.n) % tile.num_columns == 0 else tile.num_columns
    if rows == columns == 1:
        return Filled([], epilogue, [])
    known = {block.name for block in blocks_of(sch)}
    sizes = {sch.get(loops.m).loop_var: rows, sch.get(loops.n).loop_var: columns}
    sch.pad_einsum(matmul.handle, [sizes.get(sch.get(loop).loop_var, 1) for loop in sch.get_loops(matmul.handle)])
    *pads, drop = [block for block in blocks_of(sch) if block.name not in known]
    return Filled(pads, [], [drop, *epilogue]) if columns > 1 else Filled(pads, [drop, *epilogue], [])


def _pack_weights(sch: Schedule, matmul: Block, kernel: Kernel, tile: Tile) -> dict[int, Packing]:
    """[C, N] -> [N/tile][C][tile], when the right-hand side is a constant matrix read in that order."""
    region = sch.get(matmul.handle).reads[1]
    weights, iterators = region.source, [var.var for var in sch.get(matmul.handle).iter_vars]
    index = constant_argument(kernel, weights)
    if index is None or len(weights.shape) != 2:
        return {}
    in_order = region.region[0].min.same_as(iterators[-1]) and region.region[1].min.same_as(iterators[-2])
    if not in_order or int(weights.shape[1]) == tile.num_columns:
        return {}
    columns = tile.num_columns
    sch.transform_layout(matmul.handle, ("read", 1), lambda c, n: (n // columns, c, n % columns))
    return {index: Packing(axis=1, tile=columns)}


def _tile(
    sch: Schedule,
    matmul: Block,
    epilogue: list[Block],
    loops: Loops,
    tile: Tile,
    machine: Machine,
    decisions: Decisions,
) -> tuple[Any, Ahead | None]:
    """Tile and accumulate in registers; the loop over tasks, and which weights to fetch ahead."""
    kept = decisions.decide("kept", "weights", lambda: ["weights", "rows"])  # in cache between neighbouring tasks
    every = (*loops.batch, loops.m, loops.n, loops.c)
    if loops.shared and kept == "weights" and not any(is_open(sch, loop) for loop in every):
        return _tile_by_weights(sch, matmul, epilogue, loops, tile, machine, decisions)
    batch, m, n, c = loops.batch, loops.m, loops.n, loops.c
    work = prod(assumed(sch, loop) for loop in every)
    m_outer, m_inner = split(sch, m, tile.num_rows)
    n_outer, n_inner = split(sch, n, tile.num_columns)
    unroll = UNROLL if assumed(sch, c) % UNROLL == 0 and not is_open(sch, c) else 1
    num_steps = 1 if is_open(sch, c) else extent(sch, c)
    c_outer, c_inner = split(sch, c, decisions.decide("unroll", unroll, lambda: unroll_options(num_steps)))
    outer = [*batch, n_outer, m_outer] if kept == "weights" else [*batch, m_outer, n_outer]
    # Loops of open extent stay as they are, inside: fused ones would bring divisions and conditions into each tile.
    inside = [loop for loop in outer if is_open(sch, loop)]
    across = [loop for loop in outer if loop not in inside]
    sch.reorder(*across, *inside, c_outer, c_inner, m_inner, n_inner)
    task = parallel_outer(sch, across, work)
    task = inside[-1] if inside else task
    accumulate_in_registers(
        sch, matmul, epilogue, machine, at=task, rows=m_inner, columns=n_inner, first_reduction=c_outer
    )
    sch.unroll(c_inner)
    return task, None


def _tile_by_weights(
    sch: Schedule,
    matmul: Block,
    epilogue: list[Block],
    loops: Loops,
    tile: Tile,
    machine: Machine,
    decisions: Decisions,
) -> tuple[Any, Ahead]:
    """Every task reads its columns of the weights for all its rows, those of all batches: once from memory.

    With the batches outermost, 7 of 7 rows by 768 x 3072 weights took 1.5 ms instead of 0.9.
    """
    sizes = [extent(sch, loop) for loop in (*loops.batch, loops.m, loops.n, loops.c)]
    num_c, num_n, num_rows = sizes[-1], sizes[-2], prod(sizes[:-2])
    m_outer, m_inner = split(sch, loops.m, tile.num_rows)
    n_outer, n_inner = split(sch, loops.n, tile.num_columns)
    chunk = reduction_chunk(num_c, 1, num_rows, tile, machine)
    chunks, c = split(sch, loops.c, chunk) if chunk < num_c else (None, loops.c)
    c_steps, c_outer, c_inner = split_reduction(sch, c, decisions)
    across, sweeps = _share_rows(sch, num_n // tile.num_columns, [*loops.batch, m_outer], machine)
    between = [] if chunks is None else [chunks]
    sch.reorder(n_outer, *across, *between, *sweeps, c_steps, c_outer, c_inner, m_inner, n_inner)
    task = parallel_outer(sch, [n_outer, *across], prod(sizes))
    if chunks is None:
        accumulate_in_registers(
            sch, matmul, epilogue, machine, at=sweeps[-1], rows=m_inner, columns=n_inner, first_reduction=c_steps
        )
    else:
        accumulate_over_chunks(sch, matmul, epilogue, machine, at=task, rows=m_inner, columns=n_inner, chunks=chunks)
    sch.unroll(c_inner)
    return task, next_block(sch, c_steps, sweeps, chunks, num_taps=1, num_channels=num_c, tile=tile)


def _share_rows(sch: Schedule, num_tasks: int, rows: list[Any], machine: Machine) -> tuple[list[Any], list[Any]]:
    """Each loop over rows split into (what tasks share, what one task does): as few tasks as there are cores for."""
    across, inside = [], []
    for loop in rows:
        num = extent(sch, loop)
        outer, inner = split(sch, loop, rows_per_task(num, num_tasks, num, machine))
        num_tasks *= extent(sch, outer)
        across.append(outer)
        inside.append(inner)
    return across, inside
