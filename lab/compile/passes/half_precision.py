"""Products in halves, accumulated in 32 bits; what tensor cores take."""

from __future__ import annotations

from typing import Any

from tvm import relax
from tvm.ir import IRModule

from lab.compile.passes.rewrite import rewrite_functions


def half_precision(mod: IRModule) -> IRModule:
    """The module with its convolutions and products in float16; inputs and outputs keep their type."""
    mod = rewrite_functions(_Clips(mod), mod)  # TVM's pass takes no operator with numbers among its arguments
    return relax.transform.ToMixedPrecision(out_dtype="float32")(mod)


@relax.expr_functor.mutator
class _Clips(relax.PyExprMutator):  # type: ignore[misc]
    def visit_call_(self, call: Any) -> Any:
        call = self.visit_expr_post_order(call)
        if getattr(call.op, "name", "") != "relax.clip":
            return call
        x, low, high = call.args
        if x.ty.dtype != "float32":
            return call
        bounds = [relax.const(float(bound.value), "float32") for bound in (low, high)]
        return relax.op.minimum(relax.op.maximum(x, bounds[0]), bounds[1])
