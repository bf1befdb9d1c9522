"""Apply a rewriter of expressions to every Relax function of a module."""

from __future__ import annotations

from typing import Any

from tvm import relax
from tvm.ir import IRModule


def rewrite_functions(mutator: Any, mod: IRModule) -> IRModule:
    """The module that `mutator`, a `relax.PyExprMutator` made for `mod`, makes of it."""
    for var, func in list(mod.functions.items()):
        if isinstance(func, relax.Function):
            mutator.builder_.update_func(var, mutator.visit_expr(func))
    return mutator.builder_.get()
