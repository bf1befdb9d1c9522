"""GPU kernels that are matrix products: dense layers, and convolutions as implicit GEMM.

C[s, i, j] += A[s, i, k] * B[s, k, j]: a convolution's i runs over pixels, k over the window and input channels. The
patches are never stored: A's index arithmetic is part of the copy to shared memory. A block of threads makes one tile
of C; where the tiles are fewer than the GPU has multiprocessors (batch 1), k is split as well and a second kernel adds
the parts and applies the epilogue. Floats of 32 bits are multiplied by ordinary instructions, every thread a small
tile from registers; halves by tensor cores (WMMA) that accumulate in 32 bits. While one slice of k is multiplied, the
next is already on its way from global memory. Tiles and parts are chosen by a model of the time, fitted to one GPU.
"""

from __future__ import annotations

from dataclasses import astuple
from math import prod
from typing import Any

from tvm.s_tir import Schedule
from tvm.s_tir.dlight.analysis import get_root_block
from tvm.s_tir.dlight.gpu.matmul import (
    IterKind,
    auto_inline_consumer_chain,
    auto_inline_producers,
    detect_iter_traits,
    get_reduction_blocks,
    make_iter_fusion_index_map,
)

from lab.compile.schedules.gemm_plan import WARP, Product, Tile, choose, options
from lab.compile.schedules.kernel import DoesNotFit, Kernel, Scheduled
from lab.compile.targets.machine import Machine

SMALLEST = 16  # fewer rows, columns or products: tiles would be mostly padding
FRAGMENT = 16  # rows, columns and depth of one WMMA product
SHARED = "shared.dyn"
WINDOW = "window"
"""Kind of the iterators over a convolution's window, beside TVM's `IterKind`."""


def schedule(kernel: Kernel, machine: Machine) -> Scheduled:
    """Raises DoesNotFit unless the kernel is a matrix product, or a convolution, of 32-bit floats or of halves."""
    sch = Schedule(kernel.func)
    block = _main_block(sch)
    size = _product(sch, block)
    if size.dtype not in ("float32", "float16"):
        raise DoesNotFit(f"a product of {size.dtype}")
    if min(size.rows, size.cols, size.window * size.depth) < SMALLEST:
        raise DoesNotFit("too narrow for tiles")
    halves = size.dtype == "float16"
    tile = Tile(*kernel.decisions.decide("tile", list(astuple(choose(size, machine.num_cores))), lambda: options(size)))
    scheduled = (tensor_core if halves else simt)(kernel.func, tile)
    note = f"{tile.rows}x{tile.cols}x{tile.depth} tiles" + (f", k in {tile.parts} parts" if tile.parts > 1 else "")
    return Scheduled(scheduled.mod["main"], note=("tensor cores, " if halves else "") + note)


def _product(sch: Schedule, block: Any) -> Product:
    """Raises DoesNotFit for blocks that are no product, and for open extents."""
    traits = detect_iter_traits(sch.get(block))
    if traits is None:
        raise DoesNotFit("not shaped like a matrix product")
    extents: dict[IterKind, list[int]] = {kind: [] for kind in IterKind}
    for trait in traits[3]:
        value = getattr(trait.extent, "value", None)
        if value is None:
            raise DoesNotFit("a loop's extent is symbolic")
        extents[trait.kind].append(int(value))
    *window, depth = extents[IterKind.kIter_K]
    s, i, j = (prod(extents[kind]) for kind in (IterKind.kIter_S, IterKind.kIter_I, IterKind.kIter_J))
    return Product(s, i, j, prod(window), depth, str(sch.get(block).reads[0].source.dtype))


def normalize(sch: Schedule, block: Any, tile: Tile) -> None:
    """Bring `block` to the form C[s, i, j] += A[s, w, i, k] * B[s, w, k, j] of whole tiles.

    w runs over a convolution's window; where the channels are not whole slices (the first layer's), it is part of k.
    Within a slice, w is one number then: neighbours in k are neighbours in memory, and are loaded as vectors.
    """
    reindex_a = sch.reindex(block, ("read", 0))
    reindex_b = sch.reindex(block, ("read", 1))
    reindex_c = sch.reindex(block, ("write", 0))
    a_traits, b_traits, c_traits, block_traits = detect_iter_traits(sch.get(block))
    s, i, j, k = IterKind.kIter_S, IterKind.kIter_I, IterKind.kIter_J, IterKind.kIter_K
    channels = [trait for trait in block_traits if trait.kind == k][-1]
    if int(channels.extent) % tile.depth == 0:
        for trait in block_traits:
            if trait.kind == k and trait is not channels:
                trait.kind = WINDOW  # the same objects are in the other lists
    sch.transform_layout(reindex_a, ("write", 0), make_iter_fusion_index_map(a_traits, [s, WINDOW, i, k]))
    sch.transform_layout(reindex_b, ("write", 0), make_iter_fusion_index_map(b_traits, [s, WINDOW, k, j]))
    sch.transform_layout(reindex_c, ("read", 0), make_iter_fusion_index_map(c_traits, [s, i, j]))
    sch.transform_block_layout(block, make_iter_fusion_index_map(block_traits, [s, i, j, WINDOW, k]))
    sch.pad_einsum(block, [1, tile.rows, tile.cols, 1, tile.depth])


def split_depth(sch: Schedule, block: Any, tile: Tile) -> tuple[list[Any], Any, Any]:
    """Cut the loops over w and k into slices, and these into `tile.parts`.

    Returns:
        Of the block that multiplies: its outer loops, i, j, the loop over slices and the one within a slice; that
        block; and the block that adds the parts (None where there is one).
    """
    s, i, j, w, k = sch.get_loops(block)
    ko, ki = sch.split(k, [None, tile.depth])
    if tile.parts == 1:
        return [s, i, j, sch.fuse(w, ko), ki], block, None
    part, ko = sch.split(ko, [tile.parts, None])
    partial = sch.rfactor(part, 0)
    s, i, j, w, part, ko, ki = sch.get_loops(partial)
    sch.reorder(part, s, i, j, w, ko, ki)
    return [sch.fuse(part, s), i, j, sch.fuse(w, ko), ki], partial, block


def schedule_sum(sch: Schedule, block: Any) -> None:
    """The kernel that adds the parts and applies the epilogue, one output per thread."""
    last = block
    while consumers := sch.get_consumers(last):
        last = consumers[0]
    for consumer in _between(sch, block, last):
        sch.compute_inline(consumer)
    loop = sch.fuse(*sch.get_loops(last))
    blocks, threads = sch.split(loop, [None, 256])
    sch.bind(blocks, "blockIdx.x")
    sch.bind(threads, "threadIdx.x")
    sch.set_scope(block, 0, "local")
    sch.compute_at(block, threads)
    sch.unroll(sch.get_loops(block)[-1])


def _between(sch: Schedule, first: Any, last: Any) -> list[Any]:
    """The blocks between two of a chain."""
    found = []
    current = sch.get_consumers(first)[0]
    while sch.get(current) != sch.get(last):
        found.append(current)
        current = sch.get_consumers(current)[0]
    return found


def simt(func: Any, tile: Tile) -> Schedule:
    """Every thread multiplies its own small tile out of shared memory."""
    sch = Schedule(func)
    main = _main_block(sch)
    normalize(sch, main, tile)
    (outer, i, j, ko, ki), main, total = split_depth(sch, main, tile)
    bi, ti, ii = sch.split(i, [None, tile.rows // tile.thread_rows, tile.thread_rows])
    bj, tj, jj = sch.split(j, [None, tile.cols // tile.thread_cols, tile.thread_cols])
    sch.reorder(bi, bj, ti, tj, ko, ki, ii, jj)
    sch.bind(outer, "blockIdx.z")
    sch.bind(bi, "blockIdx.y")
    sch.bind(bj, "blockIdx.x")
    threads = sch.fuse(ti, tj)
    sch.bind(threads, "threadIdx.x")
    sch.unroll(ii)
    sch.unroll(ki)
    lane, vector = sch.split(jj, [None, 4])
    sch.vectorize(vector)
    sch.unroll(lane)

    result = sch.cache_write(main, 0, "local")
    sch.reverse_compute_at(result, threads, preserve_unit_loops=True)
    _, vector = sch.split(sch.get_loops(result)[-1], [None, 4])
    sch.vectorize(vector)

    copies = [_copy(sch, main, index, ko, tile, (tile.num_workers,), 4) for index in (0, 1)]
    sch.transform_layout(copies[0], ("write", 0), _swap)  # [k, i]: a thread reads its rows of one k as a vector
    for copy in copies:
        auto_inline_producers(sch, copy)
    _pipeline(sch, ko)
    _finish(sch, result, total)
    sch.decompose_reduction(main, ko)
    return sch


def tensor_core(func: Any, tile: Tile) -> Schedule:
    """Every warp multiplies fragments of 16 x 16 halves, accumulated in 32 bits."""
    from tvm.s_tir.tensor_intrin.cuda import get_wmma_intrin_group

    sch = Schedule(func)
    main = _main_block(sch)
    normalize(sch, main, tile)
    (outer, i, j, ko, ki), main, total = split_depth(sch, main, tile)
    i, ii = sch.split(i, [None, FRAGMENT])
    j, ji = sch.split(j, [None, FRAGMENT])
    ki, kk = sch.split(ki, [None, FRAGMENT])
    sch.reorder(i, j, ko, ki, ii, ji, kk)
    product = sch.blockize(ii)
    bi, wi, fi = sch.split(i, [None, tile.rows // tile.thread_rows, tile.thread_rows // FRAGMENT])
    bj, wj, fj = sch.split(j, [None, tile.cols // tile.thread_cols, tile.thread_cols // FRAGMENT])
    sch.reorder(bi, bj, wi, wj, ko, ki, fi, fj)
    sch.bind(outer, "blockIdx.z")
    sch.bind(bi, "blockIdx.y")
    sch.bind(bj, "blockIdx.x")
    warps = sch.fuse(wi, wj)
    sch.bind(warps, "threadIdx.y")

    copies = [_copy(sch, product, index, ko, tile, (tile.num_workers, WARP), 8) for index in (0, 1)]
    for copy in copies:
        auto_inline_producers(sch, copy)
        sch.storage_align(copy, 0, axis=-2, factor=16, offset=8)
    fragments = [
        sch.cache_read(product, index, scope) for index, scope in enumerate(("wmma.matrix_a", "wmma.matrix_b"))
    ]
    for fragment in fragments:
        sch.compute_at(fragment, ki)
    result = sch.cache_write(product, 0, SHARED)
    sch.storage_align(result, 0, axis=-2, factor=16, offset=4)
    store = sch.cache_write(product, 0, "wmma.accumulator")
    sch.reverse_compute_at(store, warps)
    sch.reverse_compute_at(result, warps)
    init = sch.decompose_reduction(product, ko)
    group = get_wmma_intrin_group(
        load_scope=SHARED, store_scope=SHARED, in_dtype="float16", out_dtype="float32", trans_b=False
    )
    for block, name in ((fragments[0], "load_a"), (fragments[1], "load_b"), (store, "store")):
        sch.tensorize(_tiled(sch, block), group[name])
    sch.tensorize(sch.get_loops(sch.get_child_blocks(init)[0])[-2], group["init"])
    sch.tensorize(sch.get_loops(main)[-3], group["compute"])
    _pipeline(sch, ko, ki)
    _finish(sch, result, total)
    loop = sch.fuse(*sch.get_loops(result)[-2:])
    _, lanes, vector = sch.split(loop, [None, WARP, 4])
    sch.bind(lanes, "threadIdx.x")
    sch.vectorize(vector)
    return sch


def _main_block(sch: Schedule) -> Any:
    blocks = get_reduction_blocks(sch, sch.get_child_blocks(get_root_block(sch)))
    if blocks is None:
        raise DoesNotFit("not one reduction with elementwise neighbours")
    return blocks[0]


def _copy(sch: Schedule, block: Any, index: int, ko: Any, tile: Tile, workers: tuple[int, ...], vector: int) -> Any:
    """One operand's slice to shared memory by all threads together."""
    copy = sch.cache_read(block, index, SHARED)
    sch.compute_at(copy, ko, preserve_unit_loops=True)
    loop = sch.fuse(*sch.get_loops(copy)[-2:])
    bound = sch.split(loop, [None, *workers, vector])
    names = ("threadIdx.y", "threadIdx.x")[-len(workers) :]
    for axis, name in zip(bound[1:], names, strict=False):
        sch.bind(axis, name)
    sch.vectorize(bound[-1])
    sch.annotate(copy, "tirx.manifest_shared_memory_local_stage", 1)
    sch.annotate(copy, "double_buffer_scope", 0)
    return copy


def _swap(*indices: Any) -> list[Any]:
    *outer, i, k = indices
    return [*outer, k, i]


def _tiled(sch: Schedule, block: Any) -> Any:
    i, j = sch.get_loops(block)[-2:]
    i, ii = sch.split(i, [None, FRAGMENT])
    j, ji = sch.split(j, [None, FRAGMENT])
    sch.reorder(i, j, ii, ji)
    sch.unroll(i)
    sch.unroll(j)
    return ii


def _pipeline(sch: Schedule, ko: Any, ki: Any = None) -> None:
    """Per slice of k: both operands to registers, the slice before multiplied, then registers to shared memory.

    `ki` is given where fragments are loaded ahead too: the slice's first fragments are then steps of their own.
    """
    if ki is None:
        stages, order = [0, 0, 0, 0, 1], [0, 3, 1, 4, 2]
    else:
        stages, order = [0, 0, 0, 0, 0, 1, 1], [0, 3, 1, 4, 5, 2, 6]
        sch.annotate(ki, "software_pipeline_stage", [0, 0, 1])
        sch.annotate(ki, "software_pipeline_order", [0, 1, 2])
    sch.annotate(ko, "software_pipeline_stage", stages)
    sch.annotate(ko, "software_pipeline_order", order)


def _finish(sch: Schedule, result: Any, total: Any) -> None:
    if total is None:
        auto_inline_consumer_chain(sch, result)
    else:
        schedule_sum(sch, total)
