"""The register-tiled inner kernel that convolution, matrix product and pooling share: loops, vectors, accumulators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm.s_tir import Schedule

from lab.compile.schedules.kernel import Block, assumed, divisors, extent, is_open, largest_divisor
from lab.compile.schedules.tile import UNROLL, unroll_options
from lab.compile.targets.machine import Machine
from lab.compile.tuning.decisions import Decisions

STEPS_PER_REQUEST = 32  # of a reduction, between two requests for the weights that come next
SERIAL_WORK = 32768  # operations; below it, waking the other threads costs more than they save
TASKS_PER_CORE = 2
MAX_CUT = 16  # vectors that a loop of no good divisor is written out in
ROWS, CHANNELS = "rows", "channels"  # of a convolution's output, what its cores share
SHARED_WEIGHTS = 2  # weights that every core may read for having rows of its own, as a multiple of the results


def split(sch: Schedule, loop: Any, inner: int) -> tuple[Any, Any]:
    """Split a loop into (outer, inner) with `inner` iterations inside."""
    outer, rest = sch.split(loop, [None, inner])
    return outer, rest


def split_reduction(sch: Schedule, loop: Any, decisions: Decisions | None = None) -> tuple[Any, Any, Any]:
    """A reduction as (outer, middle, inner), the inner one to be unrolled; the outer one has room for requests of what
    comes next, which would cost registers in the middle one.
    """
    num = extent(sch, loop)
    inner = UNROLL if num % UNROLL == 0 else 1
    if decisions is not None:
        inner = decisions.decide("unroll", inner, lambda: unroll_options(num))
    middle = largest_divisor(num // inner, STEPS_PER_REQUEST // UNROLL)
    outer, middle_loop, inner_loop = sch.split(loop, [None, middle, inner])
    return outer, middle_loop, inner_loop


def vectorize_last(sch: Schedule, block: object, machine: Machine) -> None:
    """Vectorise the innermost loop of a block over whole vectors where its extent allows it."""
    inner = sch.get_loops(block)[-1]
    if is_open(sch, inner):
        return  # LLVM's own vectoriser has a loop for the rest
    num = extent(sch, inner)
    lanes = machine.num_lanes if num % machine.num_lanes == 0 else largest_divisor(num, 4 * machine.num_lanes)
    if lanes * 4 < machine.num_lanes and machine.num_lanes <= num <= MAX_CUT * machine.num_lanes:
        lanes = num  # no good divisor: cut into whole vectors and a rest
    if lanes * 4 < machine.num_lanes or lanes == 1:
        return  # LLVM's own vectoriser does better with a plain loop
    if lanes < num:
        _, inner = split(sch, inner, lanes)
    sch.vectorize(inner)


def parallel_outer(sch: Schedule, loops: Sequence[Any], work: int) -> Any:
    """Fuse `loops` into one parallel loop, unless the whole kernel is too small to be worth a second thread."""
    fused = sch.fuse(*loops) if len(loops) > 1 else loops[0]
    if work > SERIAL_WORK and assumed(sch, fused) > 1:
        sch.parallel(fused)
    return fused


def accumulate_in_registers(
    sch: Schedule,
    block: Block,
    epilogue: Sequence[Block],
    machine: Machine,
    *,
    at: Any,
    rows: Any | None,
    columns: Any,
    first_reduction: Any,
) -> None:
    """Keep a block's results local at loop `at`, apply the epilogue there, and write memory once.

    Raises:
        DoesNotFit: the epilogue does not follow the block's own shape.
    """
    handle, store = block.handle, keep_local(sch, block, epilogue, at)
    _unroll_and_vectorize(sch, rows, columns, machine)
    init = sch.decompose_reduction(handle, first_reduction)
    vectorize_tiles(sch, (store, init), _position(sch, handle, at) + 1, machine, has_rows=rows is not None)


def accumulate_by_instruction(
    sch: Schedule,
    block: Block,
    epilogue: Sequence[Block],
    machine: Machine,
    *,
    at: Any,
    instruction: tuple[Any, str],
    first_reduction: Any,
) -> None:
    """Like `accumulate_in_registers`, with a tensor intrinsic, given with the loop it replaces, as the inner kernel.

    Raises:
        DoesNotFit: the epilogue does not follow the block's own shape.
    """
    store = keep_local(sch, block, epilogue, at)
    init = sch.decompose_reduction(block.handle, first_reduction)
    vectorize_tiles(sch, (store,), _position(sch, block.handle, at) + 1, machine, has_rows=True)
    *_, vectors, lanes = sch.get_loops(init)
    sch.unroll(vectors)
    sch.vectorize(lanes)
    sch.tensorize(*instruction)


def vectorize_tiles(sch: Schedule, blocks: Sequence[Any], depth: int, machine: Machine, *, has_rows: bool) -> None:
    """Unroll and vectorise the loops of `blocks` below the outermost `depth`: rows, where there are any, columns."""
    for written in blocks:
        inner = [loop for loop in sch.get_loops(written)[depth:] if is_open(sch, loop) or extent(sch, loop) > 1]
        if inner:
            _unroll_and_vectorize(sch, inner[-2] if has_rows and len(inner) > 1 else None, inner[-1], machine)


def accumulate_over_chunks(
    sch: Schedule,
    block: Block,
    epilogue: Sequence[Block],
    machine: Machine,
    *,
    at: Any,
    rows: Any,
    columns: Any,
    chunks: Any,
) -> None:
    """Sum up chunk by chunk of the reduction in a buffer of loop `at`, which lies outside the loop over `chunks`.

    Within a chunk the tile is in registers all the same: LLVM moves loads and stores out of the innermost reduction.

    Raises:
        DoesNotFit: the epilogue does not follow the block's own shape.
    """
    handle, store = block.handle, keep_local(sch, block, epilogue, at)
    _unroll_and_vectorize(sch, rows, columns, machine)
    for other in (store, sch.decompose_reduction(handle, chunks)):
        vectorize_last(sch, other, machine)


def keep_local(sch: Schedule, block: Block, epilogue: Sequence[Block], at: Any) -> Any:
    """Results of `block` in a buffer of loop `at`; the block that writes memory there. Raises DoesNotFit."""
    if epilogue:
        for inner in epilogue[:-1]:
            sch.compute_inline(inner.handle)
        store = epilogue[-1].handle
        sch.reverse_compute_at(store, at, preserve_unit_loops=True)
        sch.set_scope(block.handle, 0, "local")
        return store
    store = sch.cache_write(block.handle, 0, "local")
    sch.reverse_compute_at(store, at, preserve_unit_loops=True)
    return store


def _position(sch: Schedule, block: Any, loop: Any) -> int:
    wanted = sch.get(loop)
    return next(i for i, candidate in enumerate(sch.get_loops(block)) if sch.get(candidate).same_as(wanted))


def _unroll_and_vectorize(sch: Schedule, rows: Any | None, columns: Any, machine: Machine) -> None:
    """Columns of an odd number are one loop here, which passes.split_vectors cuts."""
    num = extent(sch, columns)
    if rows is not None:
        sch.unroll(rows)
    if num > machine.num_lanes and num % machine.num_lanes == 0:
        vectors, columns = split(sch, columns, machine.num_lanes)
        sch.unroll(vectors)
    if num > 1:
        sch.vectorize(columns)


def rows_per_task(num_rows: int, num_others: int, limit: int, machine: Machine) -> int:
    """Rows one task computes: as many as `limit` allows while every core still gets its tasks."""
    wanted = machine.num_cores * TASKS_PER_CORE
    fitting = [rows for rows in divisors(num_rows) if rows <= max(limit, 1)]
    enough = [rows for rows in fitting if num_others * (num_rows // rows) >= wanted]
    return max(enough) if enough else min(fitting)


def share_by_rows(decisions: Decisions, sizes: Sequence[int], weight_bytes: int, machine: Machine) -> bool:
    """`shared_by_rows`, or what a tuning record says."""
    derived = ROWS if shared_by_rows(sizes, weight_bytes, machine) else CHANNELS
    return bool(decisions.decide("shared", derived, lambda: [ROWS, CHANNELS]) == ROWS)


def shared_by_rows(sizes: Sequence[int], weight_bytes: int, machine: Machine) -> bool:
    """Whether the cores of a convolution share its rows, each reading all weights, rather than its output channels.

    Each core then writes lines of its own and reads what it wrote in the layer before. Cores that share the channels
    write next to each other in every row, and wait for lines that the other one's prefetcher took: 1030 instead of
    790 us for a 1x1 convolution of 28x28x512. But weights that are more than the results, or more than the cache
    holds, are better read by one core.

    Args:
        sizes: N, Y, X, K, R, S, C.
    """
    num_n, num_y, num_x, _, num_r, num_s, num_c = sizes
    outweighed = num_r * num_s * num_c <= SHARED_WEIGHTS * num_n * num_y * num_x
    return outweighed and weight_bytes <= machine.l2_bytes
