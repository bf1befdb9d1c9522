"""Cut vectors of odd length into ones that fit registers: 34 lanes become 16, 16 and 2.

LLVM keeps a vector whose length is no power of two in memory, element by element: a convolution with 34 output channels
a group ran at a tenth of its speed.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.s_tir import SBlock
from tvm.tirx import For, ForKind, PrimFunc, Stmt, Var
from tvm_ffi.structural import structural_map

from lab.compile.schedules.border import replace_variables
from lab.compile.schedules.tile import vector_lengths


def split_vectors(func: PrimFunc, num_lanes: int) -> PrimFunc:
    """The kernel with each vectorised loop of odd length as several, one after the other."""

    def cut(loop: For) -> Stmt:
        lengths = vector_lengths(int(loop.extent), num_lanes) if _is_constant_vector(loop) else []
        return _pieces(loop, lengths) if len(set(lengths)) > 1 else loop

    return func.with_body(structural_map(func.body, (For, cut)))


def _is_constant_vector(loop: For) -> bool:
    return loop.kind == ForKind.VECTORIZED and hasattr(loop.extent, "value")


def _pieces(loop: For, lengths: list[int]) -> Stmt:
    made, start = [], 0
    for length in lengths:
        lane: Any = Var(loop.loop_var.name, loop.loop_var.ty) if length > 1 else 0
        values = [(loop.loop_var, loop.min + start + lane), *_fresh_iterators(loop.body)]
        body = replace_variables(loop.body, values)
        made.append(body if length == 1 else For(lane, 0, length, ForKind.VECTORIZED, body))
        start += length
    return tirx.SeqStmt(made)


def _fresh_iterators(stmt: Stmt) -> list[tuple[Var, Var]]:
    """Each variable that a block inside binds, and one in its place: a kernel may bind each only once."""
    fresh: list[tuple[Var, Var]] = []

    def on_block(block: SBlock) -> SBlock:
        fresh.extend((axis.var, Var(axis.var.name, axis.var.ty)) for axis in block.iter_vars)
        return block

    structural_map(stmt, (SBlock, on_block))
    return fresh
