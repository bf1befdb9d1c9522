"""What a rule is given and what it hands back: one kernel (a TensorIR PrimFunc) and how it was scheduled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import gcd
from typing import Any

from tvm.s_tir import Schedule
from tvm.sym import Analyzer
from tvm.tirx import PrimFunc

from lab.compile.targets.machine import Machine
from lab.compile.tuning.decisions import Decisions

SPATIAL, REDUCTION = 0, 2
OPEN_EXTENT = 48  # iterations that plans assume of a loop whose extent is known at run time only; has many divisors


class DoesNotFit(Exception):  # noqa: N818  an answer, not a failure
    """Raised by a rule that cannot schedule a kernel; the text says why and ends up in the report."""


@dataclass(frozen=True)
class Packing:
    """A constant argument stored blocked: axis `axis` split by `tile`, its blocks first and its lanes last.

    `[..., K, ...]` becomes `[K / tile, ..., ..., tile]`: a kernel then streams the weights of one block of outputs.
    With a `group`, the axis ahead of it, C, is split as well: `[K / tile, ..., C / group, tile, group]`.
    """

    axis: int
    tile: int
    group: int = 1


@dataclass(frozen=True)
class Scheduled:
    """A scheduled kernel; `packings` maps argument positions to the layout the kernel now expects there."""

    func: PrimFunc
    packings: dict[int, Packing] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Kernel:
    """One kernel as the graph calls it; `constant_args` are the argument positions that are constants at every call.

    Rules hand what their models derive to `decisions`, which a record of tuning may overrule.
    """

    name: str
    func: PrimFunc
    constant_args: frozenset[int] = frozenset()
    decisions: Decisions = field(default_factory=Decisions, compare=False)


Rule = Callable[[Kernel, Machine], Scheduled]


@dataclass(frozen=True)
class Block:
    """One TensorIR block of a kernel and the little about it that rules ask for."""

    handle: Any
    name: str
    kinds: tuple[int, ...]
    """SPATIAL or REDUCTION for each of its iterators, in loop order."""

    @property
    def is_reduction(self) -> bool:
        return REDUCTION in self.kinds


def blocks_of(sch: Schedule) -> list[Block]:
    """The blocks of a fresh kernel in program order, each directly below the root.

    Raises:
        DoesNotFit: an iterator is neither spatial nor a reduction, or there is no block at all (opaque code).
    """
    try:
        handles = list(sch.get_child_blocks(sch.get_sblock("root")))
    except Exception as error:
        raise DoesNotFit("no TensorIR blocks") from error
    blocks = []
    for handle in handles:
        stmt = sch.get(handle)
        kinds = tuple(int(var.iter_type) for var in stmt.iter_vars)
        if set(kinds) - {SPATIAL, REDUCTION} or len(kinds) != len(sch.get_loops(handle)):
            raise DoesNotFit(f"block {stmt.name_hint} is not a plain loop nest")
        blocks.append(Block(handle, str(stmt.name_hint), kinds))
    if not blocks:
        raise DoesNotFit("no TensorIR blocks")
    return blocks


def extent(sch: Schedule, loop: Any) -> int:
    """The number of iterations of a loop. Raises DoesNotFit when it is not a constant."""
    value = getattr(sch.get(loop).extent, "value", None)
    if value is None:
        raise DoesNotFit("a loop's extent is symbolic")
    return int(value)


def is_open(sch: Schedule, loop: Any) -> bool:
    """Whether the number of iterations is known at run time only."""
    return not hasattr(sch.get(loop).extent, "value")


def assumed(sch: Schedule, loop: Any) -> int:
    """The number of iterations, or what plans assume where it is open."""
    return OPEN_EXTENT if is_open(sch, loop) else extent(sch, loop)


def known_factor(sch: Schedule, loop: Any) -> int:
    """The largest number known to divide the iterations of a loop: all of them where they are constant."""
    if not is_open(sch, loop):
        return extent(sch, loop)
    known = Analyzer().modular_set(sch.get(loop).extent)
    return gcd(int(known.coeff), int(known.base))


def divisors(n: int) -> list[int]:
    """All divisors of `n`, ascending."""
    return [d for d in range(1, n + 1) if n % d == 0]


def largest_divisor(n: int, limit: int) -> int:
    """The largest divisor of `n` that is at most `limit`."""
    return max(d for d in divisors(n) if d <= max(limit, 1))


def constant_argument(kernel: Kernel, buffer: Any) -> int | None:
    """The position of the argument that `buffer` is, when a constant is passed there at every call."""
    index = next((i for i, param in enumerate(kernel.func.params) if param.same_as(buffer)), None)
    return index if index in kernel.constant_args else None
