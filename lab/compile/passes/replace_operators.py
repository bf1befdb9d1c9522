"""Operators whose stock form is slow on a CPU become kernels of our own, before TVM turns the rest into loops."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from tvm import relax
from tvm.ir import IRModule

from lab.compile.kernels import emit, resize, top_k
from lab.compile.passes.rewrite import rewrite_functions

Replace = Callable[[Any, Any], Any]


def replace_operators(mod: IRModule) -> IRModule:
    """`topk` and bilinear `resize2d` as calls of kernels that `lab.compile.kernels` defines."""
    return rewrite_functions(_Replacer(mod), mod)


def _top_k(builder: Any, call: Any) -> Any:
    """Along the last axis; another axis is moved there and back."""
    (x,), attrs = call.args, call.attrs
    shape = [int(dim) for dim in x.ty.shape]
    axis = int(attrs.axis) % len(shape)
    last = [*[i for i in range(len(shape)) if i != axis], axis]
    back = [last.index(i) for i in range(len(shape))]
    if axis != len(shape) - 1:
        x = builder.emit(relax.op.permute_dims(x, last))
    k, num_values = int(attrs.k), shape[axis]
    lead = [shape[i] for i in last[:-1]]
    rows = builder.emit(relax.op.reshape(x, (prod(lead), num_values)))
    func = top_k.on_cpu(
        prod(lead), num_values, k, largest=bool(attrs.largest), dtype=str(x.ty.dtype), index_dtype=str(attrs.dtype)
    )
    both = builder.emit(emit.call(builder, func, [rows], num_outputs=2))
    results = []
    for i in range(2):
        part = builder.emit(relax.op.reshape(builder.emit(relax.TupleGetItem(both, i)), (*lead, k)))
        results.append(part if axis == len(shape) - 1 else builder.emit(relax.op.permute_dims(part, back)))
    return {"both": relax.Tuple(results), "values": results[0], "indices": results[1]}[str(attrs.ret_type)]


def _resize(builder: Any, call: Any) -> Any:
    return resize.legalize(builder, call)


TABLE: dict[str, Replace] = {"relax.topk": _top_k, "relax.image.resize2d": _resize}


@relax.expr_functor.mutator
class _Replacer(relax.PyExprMutator):  # type: ignore[misc]
    def visit_call_(self, call: Any) -> Any:
        call = self.visit_expr_post_order(call)
        replace = TABLE.get(getattr(call.op, "name", ""))
        replaced = replace(self.builder_, call) if replace else None
        return call if replaced is None else replaced
