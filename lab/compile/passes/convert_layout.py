"""Activations in NHWC and weights in RSCK for every two-dimensional convolution, and for what lies between them."""

from __future__ import annotations

from tvm import relax
from tvm.ir import IRModule

CONVOLUTION = "relax.nn.conv2d"


def convert_layout(mod: IRModule, layout: str) -> tuple[IRModule, str]:
    """The module in `layout` ("NHWC", or "NCHW" as imported), and a note when it had to stay as it was."""
    if layout == "NCHW" or not _has_convolution(mod):
        return mod, ""
    try:
        return relax.transform.ConvertLayout({CONVOLUTION: ["NHWC", "HWIO"]})(mod), ""
    except Exception as error:  # noqa: BLE001  the graph is right as it is, only slower: say so and go on
        return (
            mod,
            f"layout: kept NCHW, because TVM's ConvertLayout failed: {str(error).strip().splitlines()[-1][:200]}",
        )


def _has_convolution(mod: IRModule) -> bool:
    found = False

    def visit(node: object) -> None:
        nonlocal found
        found = found or getattr(getattr(node, "op", None), "name", "") == CONVOLUTION

    for func in mod.functions.values():
        if isinstance(func, relax.Function):
            relax.analysis.post_order_visit(func, visit)
    return found
