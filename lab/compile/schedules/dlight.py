"""TVM's own GPU schedules (dlight), each as a rule, so that the report says which one a kernel got."""

from __future__ import annotations

from math import prod
from typing import Any

from tvm.s_tir import Schedule
from tvm.s_tir import dlight as dl
from tvm.target import Target

from lab.compile.schedules.kernel import REDUCTION, Block, DoesNotFit, Kernel, Scheduled, blocks_of, extent
from lab.compile.targets.machine import Machine

MAX_WINDOW = 64


def _apply(rule: Any, kernel: Kernel) -> Scheduled:
    space = rule.apply(kernel.func, Target.current(allow_none=False), False)
    if space is None:
        raise DoesNotFit("dlight declines")
    sch = space if isinstance(space, Schedule) else space[0]
    return Scheduled(sch.mod["main"])


def matmul(kernel: Kernel, machine: Machine) -> Scheduled:
    """Raises DoesNotFit unless the kernel is shaped like a matrix product (convolutions are, after im2col indexing)."""
    return _apply(dl.gpu.Matmul(), kernel)


def window(kernel: Kernel, machine: Machine) -> Scheduled:
    """One thread per output, which sums its window: depthwise convolution and pooling.

    Raises DoesNotFit unless every reduction of the kernel is that short.
    """
    sch = Schedule(kernel.func)
    blocks = [block for block in blocks_of(sch) if block.is_reduction]
    lengths = [_reduction_length(sch, block) for block in blocks]
    if not lengths or max(lengths) > MAX_WINDOW:
        raise DoesNotFit("no reduction over a small window")
    return _apply(dl.gpu.Fallback(), kernel)


def _reduction_length(sch: Schedule, block: Block) -> int:
    loops = zip(sch.get_loops(block.handle), block.kinds, strict=True)
    return prod(extent(sch, loop) for loop, kind in loops if kind == REDUCTION)


def gemv(kernel: Kernel, machine: Machine) -> Scheduled:
    """Raises DoesNotFit unless the kernel is a matrix-vector product."""
    return _apply(dl.gpu.GEMV(), kernel)


def reduction(kernel: Kernel, machine: Machine) -> Scheduled:
    """Raises DoesNotFit unless the kernel is one reduction with an elementwise epilogue."""
    return _apply(dl.gpu.Reduction(), kernel)


def general_reduction(kernel: Kernel, machine: Machine) -> Scheduled:
    """Raises DoesNotFit unless the kernel is a chain of reductions over trailing axes (softmax, normalisation)."""
    return _apply(dl.gpu.GeneralReduction(), kernel)


def fallback(kernel: Kernel, machine: Machine) -> Scheduled:
    """One thread per output: right everywhere, fast only where memory is the limit."""
    return _apply(dl.gpu.Fallback(), kernel)
