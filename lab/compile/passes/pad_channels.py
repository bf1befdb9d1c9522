"""Give convolutions and matrix products at the end of a network whole vectors of outputs, where their number is odd.

A head of 84 or 126 channels runs at a fraction of the speed of one of 96 or 128: its tiles are quarters of vectors.
Weights and bias get zero channels, and a slice behind them drops what they compute; the copy that a head's
concatenation makes anyway carries the slice out.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from tvm import relax
from tvm.ir import GenericConst, IRModule

CONVOLUTION, PRODUCT = "relax.nn.conv2d", "relax.matmul"
COPIES = frozenset(
    f"relax.{name}" for name in ("concat", "image.resize2d", "permute_dims", "reshape", "flatten", "topk")
)
PROBABILITIES = frozenset({"relax.nn.softmax", "relax.nn.log_softmax"})  # kernels of their own too


def pad_channels(mod: IRModule, num_lanes: int) -> IRModule:
    """Pad every NHWC convolution and constant product whose result, after at most a constant added, is only copied
    or turned into probabilities."""
    for var, func in list(mod.functions.items()):
        if isinstance(func, relax.Function):
            mod.update_func(var, _Padder(_readers(func), num_lanes).visit_expr(func))
    return mod


def padded(num_channels: int, num_lanes: int) -> int:
    """The number of channels to compute: whole vectors, unless there is less than half a vector of them."""
    return num_channels if num_channels <= num_lanes // 2 else -(-num_channels // num_lanes) * num_lanes


def _readers(func: relax.Function) -> dict[Any, Counter[str]]:
    """Variable -> the operators that read it; a tuple's reader is what reads the tuple."""
    found: dict[Any, Counter[str]] = {}

    def visit(node: Any) -> None:
        if isinstance(node, relax.Call):
            for arg in node.args:
                for value in arg.fields if isinstance(arg, relax.Tuple) else [arg]:
                    if isinstance(value, relax.Var):
                        found.setdefault(value, Counter())[getattr(node.op, "name", "")] += 1

    relax.analysis.post_order_visit(func, visit)
    return found


@relax.expr_functor.mutator
class _Padder(relax.PyExprMutator):  # type: ignore[misc]
    def __init__(self, readers: dict[Any, Counter[str]], num_lanes: int) -> None:
        super().__init__()
        self.readers = readers
        self.num_lanes = num_lanes

    def visit_var_binding_(self, binding: Any) -> None:
        call = binding.value
        if getattr(getattr(call, "op", None), "name", "") in (CONVOLUTION, PRODUCT, "relax.add"):
            only_copied = set(self.readers.get(binding.var, {})) <= COPIES | PROBABILITIES
            value = self._padded(self.visit_expr(call)) if only_copied else None
            if value is not None:
                inside = isinstance(binding.var, relax.DataflowVar)
                emit = self.builder_.emit if inside else self.builder_.emit_output  # what the function returns
                self.set_var_remap(binding.var, emit(value))
                return
        super().visit_var_binding_(binding)

    def _padded(self, call: Any) -> Any | None:
        """`call` on more channels, and the slice that drops them; None where nothing is to be gained."""
        if call.op.name != "relax.add":
            return self._sliced(self._wide(call), call)
        value, bias = call.args
        source: Any = self.lookup_binding(value) if isinstance(value, relax.Var) else None
        known = getattr(getattr(source, "op", None), "name", "") in (CONVOLUTION, PRODUCT)
        if not known or not isinstance(bias, GenericConst):
            return None
        wide = self._wide(source)
        if wide is None:
            return None
        extra = int(wide.args[1].ty.shape[-1]) - int(source.args[1].ty.shape[-1])
        array = bias.value.numpy()
        if array.ndim and array.shape[-1] != 1:
            array = np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, extra)])
        return self._sliced(relax.op.add(self.builder_.emit(wide), relax.const(array)), call)

    def _wide(self, call: Any) -> Any | None:
        """The convolution or product with weights for whole vectors of outputs, their last axis."""
        weight = call.args[1]
        if not isinstance(weight, GenericConst) or not _outputs_are_last(call):
            return None
        array = weight.value.numpy()
        extra = padded(array.shape[-1], self.num_lanes) - array.shape[-1]
        if extra == 0:
            return None
        array = np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, extra)])
        if call.op.name == PRODUCT:  # its type is that of the narrow product: made anew
            return relax.op.matmul(call.args[0], relax.const(array))
        return relax.Call(call.op, [call.args[0], relax.const(array)], call.attrs)

    def _sliced(self, wide: Any | None, call: Any) -> Any | None:
        if wide is None:
            return None
        axis = int(call.ty.ndim) - 1
        return relax.op.strided_slice(self.builder_.emit(wide), [axis], [0], [int(call.ty.shape[axis])], [1])


def _outputs_are_last(call: Any) -> bool:
    if call.op.name == PRODUCT:
        return int(call.args[1].ty.ndim) == 2 and not call.attrs.out_dtype
    return str(call.attrs.data_layout) == "NHWC" and int(call.attrs.groups) == 1
