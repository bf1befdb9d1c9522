"""Move transposes below elementwise operators that the layout pass does not know, so that they meet and cancel."""

from __future__ import annotations

from typing import Any

from tvm import relax
from tvm.ir import IRModule

ELEMENTWISE = frozenset({"relax.clip"})


def sink_transposes(mod: IRModule) -> IRModule:
    """`clip(transpose(x))` -> `transpose(clip(x))`; two transposes in a row become one, or none."""
    for var, func in list(mod.functions.items()):
        if isinstance(func, relax.Function):
            mod.update_func(var, _Sinker().visit_expr(func))
    return mod


def compose(first: list[int], second: list[int]) -> list[int]:
    """The axes of `transpose(transpose(x, first), second)`."""
    return [first[axis] for axis in second]


@relax.expr_functor.mutator
class _Sinker(relax.PyExprMutator):  # type: ignore[misc]
    def visit_call_(self, call: Any) -> Any:
        call = self.visit_expr_post_order(call)
        name = getattr(call.op, "name", "")
        above = self._transpose_of(call.args[0]) if name in ELEMENTWISE or name == "relax.permute_dims" else None
        if above is None:
            return call
        source, axes = above
        if name in ELEMENTWISE:
            moved = self.builder_.emit(relax.Call(call.op, [source, *call.args[1:]], call.attrs, call.ty_args))
            return relax.op.permute_dims(moved, axes)
        axes = compose(axes, _axes(call))
        return source if axes == sorted(axes) else relax.op.permute_dims(source, axes)

    def _transpose_of(self, value: Any) -> tuple[Any, list[int]] | None:
        bound = self.lookup_binding(value) if isinstance(value, relax.Var) else None
        if bound is None or getattr(getattr(bound, "op", None), "name", "") != "relax.permute_dims":
            return None
        return bound.args[0], _axes(bound)


def _axes(call: Any) -> list[int]:
    num_dims = int(call.args[0].ty.ndim)
    if call.attrs.axes is None:
        return list(range(num_dims))[::-1]
    return [int(axis) % num_dims for axis in call.attrs.axes]
