"""Zero padding without a padded copy: loops over kernel positions skip what lies outside the input.

A dilated convolution reads far beyond the border (DeepLab's rate 36 on 65 x 65 positions pads 34 MB to 154 MB), and
most of what it would read there is zero. So the padding stays a condition in the innermost expression, and afterwards
that condition moves outward: rows outside are skipped, tiles of columns wholly inside lose the condition, and only
tiles across the edge keep it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm.ir import Call, Op
from tvm.ir.expr import Var
from tvm.ir.prim.expr import And, Or
from tvm.s_tir.stmt import SBlockRealize
from tvm.sym import Analyzer
from tvm.tirx import For, IfThenElse, IntImm, PrimFunc, if_then_else
from tvm_ffi.structural import structural_map

IF_THEN_ELSE = "prim.if_then_else"


@dataclass(frozen=True)
class Loops:
    """Loop variables of a tiled convolution: kernel row, kernel column, and the output columns of a tile."""

    kernel_row: Any
    kernel_column: Any
    tile_column: Any
    tile_size: int


def skip_border(func: PrimFunc, block_name: str, loops: Loops) -> PrimFunc:
    """Move the padding's condition out of the block's expression into the loops over kernel rows and columns."""
    realize, conditions = _padding(func, block_name)
    if realize is None:
        return func
    values = list(zip((iterator.var for iterator in realize.block.iter_vars), realize.iter_values, strict=True))
    in_loops = [replace_variables(condition, values) for condition in conditions]
    of_columns = [_uses(condition, loops.tile_column) for condition in in_loops]
    rows = [condition for condition, column in zip(in_loops, of_columns, strict=True) if not column]
    columns = [condition for condition, column in zip(in_loops, of_columns, strict=True) if column]
    kept = [condition for condition, column in zip(conditions, of_columns, strict=True) if column]

    def on_loop(loop: Any) -> Any:
        if loop.loop_var.same_as(loops.kernel_column) and columns:
            return _with_body(loop, _by_columns(loop.body, columns, kept, loops))
        if loop.loop_var.same_as(loops.kernel_row) and rows:
            return _with_body(loop, IfThenElse(_all(rows), loop.body, None))
        return loop

    return func.with_body(structural_map(func.body, (For, on_loop)))


def _by_columns(body: Any, columns: list[Any], kept: list[Any], loops: Loops) -> Any:
    """Conditions are monotone in the column, so a tile is inside when its first and its last column are."""
    first, last = (
        [replace_variables(condition, [(loops.tile_column, IntImm("int32", at))]) for condition in columns]
        for at in (0, loops.tile_size - 1)
    )
    touches = _all([Or(a, b) for a, b in zip(first, last, strict=True)])
    inside = _map_condition(body, lambda call: call.args[1])
    across = _map_condition(body, lambda call: if_then_else(_all(kept), call.args[1], call.args[2]))
    return IfThenElse(_all([*first, *last]), inside, IfThenElse(touches, across, None))


def _padding(func: PrimFunc, block_name: str) -> tuple[Any, list[Any]]:
    """The realization of the block that reads under a condition, and the parts of that condition.

    None where there is another condition as well, or the border holds another value than zero.
    """
    found: list[tuple[Any, list[Any]]] = []

    def add(realize: Any, call: Any) -> Any:
        found.append((realize if getattr(call.args[2], "value", None) == 0 else None, _parts(call.args[0])))
        return call

    def on_realize(realize: Any) -> Any:
        if str(realize.block.name_hint).startswith(block_name):
            _map_condition(realize.block.body, lambda call: add(realize, call))
        return realize

    structural_map(func.body, (SBlockRealize, on_realize))
    return found[0] if len(found) == 1 else (None, [])


def _map_condition(body: Any, change: Any) -> Any:
    def on_call(call: Any) -> Any:
        return change(call) if isinstance(call.op, Op) and call.op.name == IF_THEN_ELSE else call

    return structural_map(body, (Call, on_call))


def _parts(condition: Any) -> list[Any]:
    return [*_parts(condition.a), *_parts(condition.b)] if isinstance(condition, And) else [condition]


def _all(conditions: list[Any]) -> Any:
    joined = conditions[0]
    for condition in conditions[1:]:
        joined = And(joined, condition)
    return joined


def replace_variables(expression: Any, values: list[tuple[Any, Any]]) -> Any:
    def on_variable(variable: Any) -> Any:
        return next((value for known, value in values if variable.same_as(known)), variable)

    return structural_map(expression, (Var, on_variable))


def _uses(expression: Any, variable: Any) -> bool:
    changed = replace_variables(expression, [(variable, IntImm("int32", 0))])
    return not changed.same_as(expression)


def _with_body(loop: Any, body: Any) -> Any:
    return For(
        loop.loop_var, loop.min, loop.extent, loop.kind, body, loop.thread_binding, loop.annotations, loop.step,
    )  # fmt: skip


def coefficient(index: Any, variable: Any) -> int:
    """How far an index moves when a variable of it grows by one; 0 where that is no constant."""
    low, high = (replace_variables(index, [(variable, IntImm("int32", value))]) for value in (0, 1))
    step = Analyzer().simplify(high - low)
    return int(step.value) if isinstance(step, IntImm) else 0
