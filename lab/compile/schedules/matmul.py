"""Matrix product (dense layers, batched products): the register tile over [rows, columns], right-hand side packed.

Shapes: M rows, N columns, C reduction; leading dimensions are batches.
"""

from __future__ import annotations

from typing import Any

from tvm.s_tir import Schedule

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
from lab.compile.schedules.tiling import (
    UNROLL,
    Tile,
    accumulate_in_registers,
    choose_tile,
    decide_tile,
    parallel_outer,
    split,
    unroll_options,
    vectorize_last,
)
from lab.compile.targets.machine import Machine
from lab.compile.tuning.decisions import Decisions

Loops = tuple[list[Any], Any, Any, Any]
"""Of the batches, and M, N and C."""


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
    batch, m, n, c = _loops(sch, matmul)
    factor = known_factor(sch, m)
    padded = is_open(sch, m) and factor == 1
    num_rows, num_columns = OPEN_EXTENT if padded else factor, extent(sch, n)
    derived = choose_tile(num_rows, num_columns, machine)
    tile = decide_tile(kernel.decisions, derived, num_rows, num_columns, machine)
    pad = None
    if padded:
        pad, epilogue = _pad_rows(sch, matmul, epilogue, tile)
        *batch, m, n, c = sch.get_loops(matmul.handle)
    packings = _pack_weights(sch, matmul, kernel, tile)
    task = _tile(sch, matmul, epilogue, (batch, m, n, c), tile, machine, kernel.decisions)
    if pad is not None:
        sch.compute_at(pad.handle, task)
        vectorize_last(sch, pad.handle, machine)
    note = f"tile {tile.num_rows}x{tile.num_columns}" + (", any number of rows" if padded else "")
    return Scheduled(sch.mod["main"], packings, note=note)


def _loops(sch: Schedule, matmul: Block) -> Loops:
    """Where each batch is one row and all share the right-hand side, the last batch loop is M."""
    *batch, m, n, c = sch.get_loops(matmul.handle)
    shared = len(sch.get(matmul.handle).reads[1].source.shape) == 2
    if batch and shared and not is_open(sch, m) and extent(sch, m) == 1 and not is_open(sch, batch[-1]):
        return [*batch[:-1], m], batch[-1], n, c
    return batch, m, n, c


def _pad_rows(sch: Schedule, matmul: Block, epilogue: list[Block], tile: Tile) -> tuple[Block | None, list[Block]]:
    """Whole tiles of rows: the block that pads the left-hand side, and the epilogue, which drops them again.

    So the conditions stay out of the innermost loop; each task copies the few rows it reads.
    """
    if tile.num_rows == 1:
        return None, epilogue
    known = {block.name for block in blocks_of(sch)}
    num_batches = len(matmul.kinds) - 3
    sch.pad_einsum(matmul.handle, [1] * num_batches + [tile.num_rows, 1, 1])
    new = [block for block in blocks_of(sch) if block.name not in known]
    return new[0], [new[1], *epilogue]


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
) -> Any:
    """Tile and accumulate in registers; the loop over tasks."""
    batch, m, n, c = loops
    work = 1
    for loop in (*batch, m, n, c):
        work *= assumed(sch, loop)
    m_outer, m_inner = split(sch, m, tile.num_rows)
    n_outer, n_inner = split(sch, n, tile.num_columns)
    unroll = UNROLL if assumed(sch, c) % UNROLL == 0 and not is_open(sch, c) else 1
    num_steps = 1 if is_open(sch, c) else extent(sch, c)
    c_outer, c_inner = split(sch, c, decisions.decide("unroll", unroll, lambda: unroll_options(num_steps)))
    kept = decisions.decide("kept", "weights", lambda: ["weights", "rows"])  # in cache between neighbouring tasks
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
    return task
