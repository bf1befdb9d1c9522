"""Winograd's convolution, step inside step: a task transforms some rows of tiles, then for a block of output channels
multiplies and transforms back with the epilogue, so that what passes between the steps stays in cache.

The block `winograd_product` carries the plan that `lab.compile.kernels.winograd_plan` made.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from tvm.s_tir import Schedule

from lab.compile.kernels.winograd import (
    INPUT,
    OUTPUT_ROWS,
    PAD,
    PRODUCT,
    RESULT,
    ROWS,
    Plan,
)
from lab.compile.schedules.kernel import Block, DoesNotFit, Kernel, Packing, Scheduled, blocks_of, constant_argument
from lab.compile.schedules.prefetch import Ahead, fetch_ahead, prefetch_weights
from lab.compile.schedules.tiling import (
    SERIAL_WORK,
    accumulate_in_registers,
    parallel_outer,
    split,
    split_reduction,
    vectorize_last,
)
from lab.compile.targets.machine import Machine
from lab.compile.tuning.decisions import Decisions

REGISTERS = "local"
PARALLEL = SERIAL_WORK + 1  # whatever is worth a Winograd is worth all cores
OUTPUT_CHANNELS = 3  # axis of the weights [A, A, C, K] that is stored in blocks


def schedule(kernel: Kernel, machine: Machine) -> Scheduled:
    """Schedule one kernel of `lab.compile.kernels.winograd` with the elementwise blocks behind it.

    Raises:
        DoesNotFit: it is another kernel.
    """
    if not any(block.startswith(PRODUCT) for block in _names(kernel)):
        raise DoesNotFit("not a Winograd convolution")
    sch = Schedule(kernel.func)
    blocks = {block.name: block for block in blocks_of(sch)}
    if RESULT not in blocks:
        raise DoesNotFit("not a Winograd convolution")
    plan, dilation = _plan_of(sch, blocks[PRODUCT])
    packings = _pack_weights(sch, blocks[PRODUCT], kernel, plan)
    last = _inline_epilogue(sch, blocks)
    task, block, vector = _tile_result(sch, last, plan, dilation, machine)
    _place(sch, blocks[OUTPUT_ROWS].handle, vector)
    step, p_outer = _multiply(sch, blocks[PRODUCT], plan, machine, kernel.decisions, at=block)
    _transform_input(sch, blocks, machine, at=None if plan.shared_input else task)
    func = sch.mod["main"]
    if packings and fetch_ahead(func.params[1], machine):
        sweeps, panel = ((p_outer.loop_var, int(p_outer.extent)),), plan.tile_columns * int(func.params[1].shape[3])
        ahead = Ahead(step.loop_var, sweeps, panel // int(step.extent), panel)
        func = prefetch_weights(func, PRODUCT, 1, ahead)
    note = f"F({plan.m}x{plan.m}, 3x3), tile {plan.tile_rows}x{plan.tile_columns}, {plan.task_rows} rows a task"
    return Scheduled(func, packings, note=note)


def _names(kernel: Kernel) -> list[str]:
    try:
        return [block.name for block in blocks_of(Schedule(kernel.func))]
    except DoesNotFit:
        return []


def _plan_of(sch: Schedule, product: Block) -> tuple[Plan, int]:
    marks = sch.get(product.handle).annotations
    plan = Plan(**{field.name: int(marks[f"lab.{field.name}"]) for field in fields(Plan)})  # type: ignore[arg-type]
    dilation = int(marks["lab.dilation"])
    for field in (*(f.name for f in fields(Plan)), "dilation"):
        sch.unannotate(product.handle, f"lab.{field}")
    return plan, dilation


def _pack_weights(sch: Schedule, product: Block, kernel: Kernel, plan: Plan) -> dict[int, Packing]:
    """[A, A, C, K] -> [K/tile, A, A, C, tile]."""
    weights, columns = sch.get(product.handle).reads[1].source, plan.tile_columns
    index = constant_argument(kernel, weights)
    if index is None or int(weights.shape[OUTPUT_CHANNELS]) == columns:
        return {}
    sch.transform_layout(product.handle, ("read", 1), lambda r, s, c, k: (k // columns, r, s, c, k % columns))
    return {index: Packing(axis=OUTPUT_CHANNELS, tile=columns)}


def _inline_epilogue(sch: Schedule, blocks: dict[str, Block]) -> Any:
    """Everything behind the rows of the output transform in one block; that block."""
    own = (PAD, ROWS, INPUT, PRODUCT, OUTPUT_ROWS)
    behind = [block for name, block in blocks.items() if name not in own]
    for block in behind[:-1]:
        sch.compute_inline(block.handle)
    return behind[-1].handle


def _tile_result(sch: Schedule, last: Any, plan: Plan, dilation: int, machine: Machine) -> tuple[Any, Any, Any]:
    """Loops over tasks, blocks of channels and vectors of channels around the m x m results of a tile."""
    n, y, x, k = sch.get_loops(last)
    row, up, row_phase = sch.split(y, [plan.grid_rows, plan.m, dilation])
    column, left, column_phase = sch.split(x, [plan.grid_columns, plan.m, dilation])
    row_outer, row_inner = split(sch, row, plan.task_rows)
    lanes = machine.num_lanes
    block, vector, lane = sch.split(k, [None, plan.block_columns // lanes, lanes])
    outer = [block, n, row_outer] if plan.shared_input else [n, row_outer, block]
    sch.reorder(*outer, row_inner, row_phase, column_phase, column, vector, up, left, lane)
    task = parallel_outer(sch, outer if plan.shared_input else outer[:2], work=PARALLEL)
    block = task if plan.shared_input else block
    for loop in (up, left):
        sch.unroll(loop)
    sch.vectorize(lane)
    return task, block, vector


def _place(sch: Schedule, handle: Any, at: Any) -> None:
    """A transform of one tile and one vector of channels at `at`, in registers, its small loops unrolled."""
    sch.compute_at(handle, at)
    sch.set_scope(handle, 0, REGISTERS)
    *_, rows, columns, lane = sch.get_loops(handle)
    sch.unroll(rows)
    sch.unroll(columns)
    sch.vectorize(lane)


def _multiply(
    sch: Schedule, product: Block, plan: Plan, machine: Machine, decisions: Decisions, *, at: Any
) -> tuple[Any, Any]:
    """The loops over steps of the reduction and over tiles of rows."""
    handle = product.handle
    sch.compute_at(handle, at)
    *_, row, column, p, k, c = sch.get_loops(handle)
    p_outer, p_inner = split(sch, p, plan.tile_rows)
    k_outer, k_inner = split(sch, k, plan.tile_columns)
    c_steps, c_outer, c_inner = split_reduction(sch, c, decisions)
    sch.reorder(row, column, k_outer, p_outer, c_steps, c_outer, c_inner, p_inner, k_inner)
    accumulate_in_registers(
        sch, product, [], machine, at=p_outer, rows=p_inner, columns=k_inner, first_reduction=c_steps
    )
    sch.unroll(c_inner)
    return sch.get(c_steps), sch.get(p_outer)


def _transform_input(sch: Schedule, blocks: dict[str, Block], machine: Machine, *, at: Any) -> None:
    """Inside the task `at`; for None in parallel ahead of all tasks."""
    into, pad = blocks[INPUT].handle, blocks[PAD].handle
    if at is not None:
        sch.compute_at(into, at)
    *_, row, column, p, c = sch.get_loops(into)
    vector, lane = split(sch, c, machine.num_lanes)
    sch.reorder(p, vector, column, row, lane)
    sch.unroll(row)
    sch.unroll(column)
    sch.vectorize(lane)
    _place(sch, blocks[ROWS].handle, column)
    if at is not None:
        sch.compute_at(pad, at)
    else:
        sch.parallel(p)
        parallel_outer(sch, sch.get_loops(pad)[:2], work=PARALLEL)
    vectorize_last(sch, pad, machine)
