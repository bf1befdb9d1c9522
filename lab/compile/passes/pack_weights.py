"""Store constants in the blocked layout their kernels were scheduled for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tvm import relax
from tvm.ir import GlobalVar, IRModule
from tvm.relax.expr import _update_type

from lab.compile.schedules.kernel import Packing


def pack(array: np.ndarray, packing: Packing) -> np.ndarray:
    """`[..., K, ...]` -> `[K / tile, ..., ..., tile]`: the axis' blocks first, its lanes last, then groups of C."""
    axis, tile, group = packing.axis, packing.tile, packing.group
    split = array.reshape(*array.shape[:axis], array.shape[axis] // tile, tile, *array.shape[axis + 1 :])
    blocked = np.moveaxis(split, (axis, axis + 1), (0, -1))  # C is where the axis was: one before it, one behind blocks
    if group > 1:
        *lead, channels, rest = blocked.shape
        blocked = np.moveaxis(blocked.reshape(*lead, channels // group, group, rest), -2, -1)
    return np.ascontiguousarray(blocked)


def pack_weights(mod: IRModule, packings: Mapping[str, Mapping[int, Packing]]) -> IRModule:
    """Replace the constants named by `packings` (kernel -> argument position) at every call."""
    fresh = {
        str(var.name_hint): _typed_like(var, func)
        for var, func in mod.functions.items()
        if packings.get(str(var.name_hint))
    }
    functions = {fresh.get(str(var.name_hint), var): func for var, func in mod.functions.items()}
    for var, func in functions.items():
        if isinstance(func, relax.Function):
            functions[var] = _Packer(packings, fresh).visit_expr(func)
    return IRModule(functions, attrs=mod.attrs)


def _typed_like(var: GlobalVar, func: Any) -> GlobalVar:
    """A variable of the same name that carries the type of the packed kernel; a variable's type cannot be changed."""
    fresh = GlobalVar(var.name_hint)
    _update_type(fresh, func.ty)
    return fresh


@relax.expr_functor.mutator
class _Packer(relax.PyExprMutator):  # type: ignore[misc]
    def __init__(self, packings: Mapping[str, Mapping[int, Packing]], fresh: Mapping[str, GlobalVar]) -> None:
        super().__init__()
        self.packings = packings
        self.fresh = fresh

    def visit_call_(self, call: Any) -> Any:
        call = self.visit_expr_post_order(call)
        if getattr(call.op, "name", "") != "relax.call_tir":
            return call
        kernel = str(call.args[0].name_hint)
        wanted = self.packings.get(kernel, {})
        if not wanted:
            return call
        args = [
            relax.const(pack(arg.value.numpy(), wanted[i])) if i in wanted else arg
            for i, arg in enumerate(call.args[1])
        ]
        return relax.Call(call.op, [self.fresh[kernel], relax.Tuple(args), *call.args[2:]], call.attrs, call.ty_args)
