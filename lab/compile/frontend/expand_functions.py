"""Operators that ONNX defines by a function of others, where TVM's importer knows no converter: that function.

Celu, Swish, Attention, RotaryEmbedding, CenterCropPad, ... The bodies are ONNX's own, in the `onnx` package.
"""

from __future__ import annotations

import onnx
import onnx.inliner
from onnx import defs, helper

from lab.compile.frontend.converters import CONVERTERS

# TVM knows an operator of this name, but another one: com.microsoft's, or an older definition.
EXPANDED = frozenset({"Attention"})


def expand_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with such nodes replaced by their bodies; itself where there are none."""
    from tvm.relax.frontend.onnx import onnx_frontend

    known = {name for name, converter in onnx_frontend._get_convert_map().items() if converter is not None}
    known |= set(CONVERTERS)
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    wanted = {
        (node.domain, node.op_type)
        for node in model.graph.node
        if node.domain in ("", "ai.onnx")
        and (node.op_type not in known or node.op_type in EXPANDED)
        and _has_body(node.op_type, version)
    }
    if not wanted:
        return model
    typed = onnx.ModelProto()
    typed.CopyFrom(model)
    listed = {value.name for value in (*typed.graph.value_info, *typed.graph.input)}
    for tensor in typed.graph.initializer:  # bodies depend on the types of inputs, constants among them
        if tensor.name not in listed:
            typed.graph.value_info.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    return onnx.inliner.inline_selected_functions(typed, sorted(wanted), exclude=False, inline_schema_functions=True)


def _has_body(operator: str, version: int) -> bool:
    try:
        schema = defs.get_schema(operator, version)
    except defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)
