"""Look-ups with indices that come from outside stay inside the table, whatever a request holds."""

from __future__ import annotations

from typing import Any

from tvm import relax
from tvm.ir import GenericConst, IRModule

from lab.compile.passes.rewrite import rewrite_functions

UNCHECKED = "fast"


def bound_indices(mod: IRModule) -> IRModule:
    """`take` as ONNX's Gather is imported reads wherever an index points; here it takes the nearest row there is."""
    return rewrite_functions(_Bounder(mod), mod)


@relax.expr_functor.mutator
class _Bounder(relax.PyExprMutator):  # type: ignore[misc]
    def visit_call_(self, call: Any) -> Any:
        call = self.visit_expr_post_order(call)
        if getattr(call.op, "name", "") != "relax.take" or str(call.attrs.mode) != UNCHECKED:
            return call
        table, indices = call.args
        if isinstance(indices, GenericConst):  # known to be right
            return call
        axis = None if call.attrs.axis is None else int(call.attrs.axis)
        return relax.op.take(table, indices, axis, mode="clip")
