"""Greedy non-maximum suppression, exact and sequential within a row; rows are independent.

Shapes: R rows, K boxes of a row, sorted by descending score (see `lab.nn.nms.keep_mask`).
"""

# mypy: ignore-errors
# TVMScript is a language of its own in Python's syntax; its annotations are no types.

from __future__ import annotations

from tvm.script import tirx as T
from tvm.tirx import PrimFunc

from lab.compile.kernels.emit import named

NAME = "nms_keep"
MAX_THREADS = 256


def on_cpu(num_rows: int, num_boxes: int, threshold: float, lanes: int) -> PrimFunc:
    """Rows in parallel; each kept box is compared with all later ones, `lanes` at a time."""
    R, K, L = num_rows, num_boxes, lanes
    V = -(-K // L)  # vectors per row

    @T.prim_func(s_tir=True, private=True)
    def nms_keep(
        boxes: T.Buffer((R, K, 4), "float32"), valid: T.Buffer((R, K), "bool"), keep: T.Buffer((R, K), "bool")
    ) -> None:
        for row in T.parallel(R):
            with T.sblock("nms_keep"):
                r = T.axis.spatial(R, row)
                T.reads(boxes[r, 0:K, 0:4], valid[r, 0:K])
                T.writes(keep[r, 0:K])
                x1 = T.sblock_alloc_buffer((V * L,), "float32", scope="local")
                y1 = T.sblock_alloc_buffer((V * L,), "float32", scope="local")
                x2 = T.sblock_alloc_buffer((V * L,), "float32", scope="local")
                y2 = T.sblock_alloc_buffer((V * L,), "float32", scope="local")
                area = T.sblock_alloc_buffer((V * L,), "float32", scope="local")
                alive = T.sblock_alloc_buffer((V * L,), "float32", scope="local")
                used = T.sblock_alloc_buffer((1,), "int32", scope="local")
                used[0] = 0
                for i in range(V * L):
                    x1[i] = T.if_then_else(i < K, boxes[r, i, 0], T.float32(0))
                    y1[i] = T.if_then_else(i < K, boxes[r, i, 1], T.float32(0))
                    x2[i] = T.if_then_else(i < K, boxes[r, i, 2], T.float32(0))
                    y2[i] = T.if_then_else(i < K, boxes[r, i, 3], T.float32(0))
                    area[i] = (x2[i] - x1[i]) * (y2[i] - y1[i])
                    alive[i] = T.if_then_else(i < K, T.Cast("float32", valid[r, i]), T.float32(0))
                    if alive[i] > T.float32(0):
                        used[0] = i + 1
                for i in range(used[0]):
                    if alive[i] > T.float32(0):
                        for vector in range(i // L, (used[0] + L - 1) // L):
                            for lane in T.vectorized(L):
                                j: T.let[T.int32] = vector * L + lane
                                iou: T.let[T.float32] = _iou(
                                    (x1[i], y1[i], x2[i], y2[i]), (x1[j], y1[j], x2[j], y2[j]), area[i] + area[j]
                                )
                                alive[j] = T.Select(T.And(iou > T.float32(threshold), j > i), T.float32(0), alive[j])
                for i in range(K):
                    keep[r, i] = alive[i] > T.float32(0)

    return named(nms_keep, NAME, threshold=threshold)


def on_gpu(num_rows: int, num_boxes: int, threshold: float) -> PrimFunc:
    """One block of threads per row; in each step the threads share the boxes behind the next kept one."""
    R, K = num_rows, num_boxes
    threads = min(MAX_THREADS, -(-K // 32) * 32)
    per_thread = -(-K // threads)

    @T.prim_func(s_tir=True, private=True)
    def nms_keep(
        boxes: T.Buffer((R, K, 4), "float32"), valid: T.Buffer((R, K), "bool"), keep: T.Buffer((R, K), "bool")
    ) -> None:
        for r in T.thread_binding(R, thread="blockIdx.x"):
            for t in T.thread_binding(threads, thread="threadIdx.x"):
                with T.sblock("nms_keep"):
                    T.reads(boxes[0:R, 0:K, 0:4], valid[0:R, 0:K])
                    T.writes(keep[0:R, 0:K])
                    alive = T.sblock_alloc_buffer((K,), "int32", scope="shared")
                    current = T.sblock_alloc_buffer((1,), "int32", scope="local")
                    for part in range(per_thread):
                        j: T.let[T.int32] = part * threads + t
                        if j < K:
                            alive[j] = T.Cast("int32", valid[r, j])
                    T.tvm_storage_sync("shared")
                    for i in range(K):
                        current[0] = alive[i]
                        if current[0] > 0:
                            for part in range(per_thread):
                                j: T.let[T.int32] = part * threads + t
                                if T.And(j > i, j < K):  # noqa: SIM102  TIR's And reads both sides
                                    if _iou(
                                        _corners(boxes, r, i),
                                        _corners(boxes, r, j),
                                        _area(_corners(boxes, r, i)) + _area(_corners(boxes, r, j)),
                                    ) > T.float32(threshold):
                                        alive[j] = 0
                        # Box i + 1 is final once every thread has passed here.
                        T.tvm_storage_sync("shared")
                    for part in range(per_thread):
                        j: T.let[T.int32] = part * threads + t
                        if j < K:
                            current[0] = alive[j]
                            keep[r, j] = current[0] > 0

    return named(nms_keep, NAME, threshold=threshold)


def _corners(boxes, row, box):
    return tuple(boxes[row, box, side] for side in range(4))


def _area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def _iou(box, other, both_areas):
    """Shared over joined area, in the order in which torchvision rounds."""
    width = T.max(T.min(box[2], other[2]) - T.max(box[0], other[0]), T.float32(0))
    height = T.max(T.min(box[3], other[3]) - T.max(box[1], other[1]), T.float32(0))
    return width * height / (both_areas - width * height)
