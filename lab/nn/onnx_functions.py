"""Torch operators that travel through ONNX as one node: a call of a function whose body the file carries with it.

ONNX Runtime runs the body, which is standard ONNX; `lab.compile` knows the function by name and turns the call into one
kernel. Adding one: a module with an `OnnxFunction`, one line in the table here, a converter in
`lab/compile/frontend/converters`, one test.
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


FUNCTIONS = LazyTable("ONNX function", {"NmsKeep": "lab.nn.nms:NMS_KEEP"})
