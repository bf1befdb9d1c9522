"""Activations in NHWC and weights in RSCK for every two-dimensional convolution, and for what lies between them.

Each convolution gets a transpose ahead of it and one behind it. Those behind sink below every operator that is as good
in the other layout, until they meet one ahead of a convolution, or a transpose that the model itself has, and cancel.
TVM's own ConvertLayout gives up on graphs with slices of other ranks.
"""

from __future__ import annotations

from typing import Any

from tvm import relax
from tvm.ir import IRModule

from lab.compile.passes.channels_last import SINKS, TO_CHANNELS_FIRST, Sinker, axes_of, compose
from lab.compile.passes.rewrite import rewrite_functions
from lab.core.errors import last_line

CONVOLUTION = "relax.nn.conv2d"


def convert_layout(mod: IRModule, layout: str) -> tuple[IRModule, str]:
    """The module in `layout` ("NHWC", or "NCHW" as imported), and a note when it had to stay as it was."""
    if layout == "NCHW":
        return mod, ""
    try:
        return rewrite_functions(_Converter(mod), mod), ""
    except Exception as error:  # noqa: BLE001  the graph is right as it is, only slower: say so and go on
        return mod, f"layout: kept NCHW, because the layout pass failed: {last_line(error)}"


@relax.expr_functor.mutator
class _Converter(relax.PyExprMutator):  # type: ignore[misc]
    def visit_call_(self, call: Any) -> Any:
        call = self.visit_expr_post_order(call)
        name = getattr(call.op, "name", "")
        sinker = Sinker(self.builder_.emit, self.lookup_binding)
        if name == CONVOLUTION and str(call.attrs.data_layout) == "NCHW" and str(call.attrs.kernel_layout) == "OIHW":
            return _convolution(sinker, call)
        if name == "relax.permute_dims":
            return _transpose(sinker, call)
        sink = SINKS.get(name)
        moved = sink(sinker, call) if sink else None
        return call if moved is None else relax.op.permute_dims(self.builder_.emit(moved), TO_CHANNELS_FIRST)


def _convolution(sinker: Sinker, call: Any) -> Any:
    data, weight = sinker.channels_last(call.args[0]), sinker.emit(relax.op.permute_dims(call.args[1], [2, 3, 1, 0]))
    attrs = call.attrs
    conv = relax.op.nn.conv2d(
        data, weight, [int(s) for s in attrs.strides], [int(p) for p in attrs.padding],
        [int(d) for d in attrs.dilation], int(attrs.groups), "NHWC", "HWIO", "NHWC", attrs.out_dtype or None,
    )  # fmt: skip
    return relax.op.permute_dims(sinker.emit(conv), TO_CHANNELS_FIRST)


def _transpose(sinker: Sinker, call: Any) -> Any:
    """Two transposes in a row become one, or none."""
    above = sinker.transpose_of(call.args[0])
    if above is None:
        return call
    source, axes = above[0], compose(above[1], axes_of(call))
    return source if axes == sorted(axes) else relax.op.permute_dims(source, axes)
