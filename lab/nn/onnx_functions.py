"""Torch operators that travel through ONNX as one node.

Either a node of ONNX's own that the exporter would not make (`StandardOperator`), or a call of a function whose body
the file carries with it (`OnnxFunction`): ONNX Runtime runs the body, which is standard ONNX; `lab.compile` knows the
function by name and turns the call into one kernel. Adding one: a module that defines it, one line in a table here, a
converter in `lab/compile/frontend/converters`, one test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lab.core.tables import LazyTable

DOMAIN = "lab"
VERSION = 1


@dataclass(frozen=True)
class OnnxFunction:
    """One operator, in torch and in ONNX.

    `torch_op` is the operator as `torch.export` records it, `schema()` the ONNX call (an `onnx.defs.OpSchema` of domain
    `lab`), `call` makes that call from the operator's arguments, `body(opset)` is the `onnx.FunctionProto`.
    """

    name: str
    torch_op: Callable[..., Any]
    schema: Callable[[], Any]
    call: Callable[..., Any]
    body: Callable[[int], Any]

    def translation(self) -> Callable[..., Any]:
        """What `torch.onnx.export` is given for `torch_op`: records one node and nothing of the body.

        The body joins the finished file: the exporter's optimizer would inline a function that it knows.
        """
        from onnxscript import values

        node = values.Op(values.Opset(DOMAIN, VERSION), self.name, self.schema())
        return lambda *arguments: self.call(node, *arguments)


@dataclass(frozen=True)
class StandardOperator:
    """A torch operator and what records the ONNX nodes that compute it, from the operator's arguments."""

    torch_op: Callable[..., Any]
    translate: Callable[..., Any]


FUNCTIONS = LazyTable("ONNX function", {"NmsKeep": "lab.nn.nms:NMS_KEEP"})
STANDARD = LazyTable(
    "operator with an ONNX translation",
    {"lstm": "lab.nn.onnx_recurrent:LSTM", "gru": "lab.nn.onnx_recurrent:GRU"},
)


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The `custom_translation_table` of `torch.onnx.export`."""
    own = {function.torch_op: function.translation() for function in FUNCTIONS.values()}
    return own | {operator.torch_op: operator.translate for operator in STANDARD.values()}
