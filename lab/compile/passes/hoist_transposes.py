"""Move transposes that are left behind an enlarging resize ahead of it, where the tensor is smaller."""

from __future__ import annotations

from math import prod
from typing import Any

from tvm import relax
from tvm.ir import IRModule

from lab.compile.passes.channels_last import TO_CHANNELS_FIRST, axes_of, resize_in, static_shape

RESIZE = "relax.image.resize2d"


def hoist_transposes(mod: IRModule) -> IRModule:
    """`transpose(resize_NHWC(x))` -> `resize_NCHW(transpose(x))` where the resize enlarges."""
    for var, func in list(mod.functions.items()):
        if isinstance(func, relax.Function):
            mod.update_func(var, _Hoister().visit_expr(func))
    return mod


@relax.expr_functor.mutator
class _Hoister(relax.PyExprMutator):  # type: ignore[misc]
    def visit_call_(self, call: Any) -> Any:
        call = self.visit_expr_post_order(call)
        if getattr(call.op, "name", "") != "relax.permute_dims" or axes_of(call) != TO_CHANNELS_FIRST:
            return call
        resize: Any = self.lookup_binding(call.args[0]) if isinstance(call.args[0], relax.Var) else None
        if getattr(getattr(resize, "op", None), "name", "") != RESIZE or str(resize.attrs.layout) != "NHWC":
            return call
        source = resize.args[0]
        if prod(static_shape(source)) >= prod(static_shape(call)):
            return call
        return resize_in(resize, self.builder_.emit(relax.op.permute_dims(source, TO_CHANNELS_FIRST)), "NCHW")
