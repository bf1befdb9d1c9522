"""Operators that ONNX defines by a function of others, where TVM's importer knows no converter: that function.

Celu, Swish, Attention, RotaryEmbedding, CenterCropPad, ... The bodies are ONNX's own, in the `onnx` package.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx
import onnx.inliner
from onnx import defs, helper

from lab.compile.frontend.known import known_of, opset_of
from lab.compile.frontend.operators import converted_operators

# TVM knows an operator of this name, but another one: com.microsoft's, or an older definition.
EXPANDED = frozenset({"Attention"})
WITH_GAPS = "lab.gaps"


def expand_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with such nodes replaced by their bodies; itself where there are none."""
    known, version = converted_operators(), opset_of(model)
    wanted = {
        (node.domain, node.op_type)
        for node in model.graph.node
        if node.domain in ("", "ai.onnx")
        and (node.op_type not in known or node.op_type in EXPANDED)
        and _has_body(node.op_type, version)
    }
    if not wanted:
        return model
    typed = _named_by_gaps(model, wanted, version)
    listed = {value.name for value in (*typed.graph.value_info, *typed.graph.input)}
    for tensor in typed.graph.initializer:  # bodies depend on the types of inputs, constants among them
        if tensor.name not in listed:
            typed.graph.value_info.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    wanted |= {(function.domain, function.name) for function in typed.functions if function.domain == WITH_GAPS}
    return onnx.inliner.inline_selected_functions(typed, sorted(wanted), exclude=False, inline_schema_functions=True)


def _named_by_gaps(model: onnx.ModelProto, wanted: Collection[tuple[str, str]], version: int) -> onnx.ModelProto:
    """A copy whose nodes that leave out an input before another one are calls of functions of the model.

    The inliner asks for the type of every input, also of those left out, and fails; a schema can be told that there is
    none. Nodes whose inputs have unknown types stay as they are.
    """
    named = onnx.ModelProto()
    named.CopyFrom(model)
    gaps = [node for node in named.graph.node if (node.domain, node.op_type) in wanted and "" in node.input]
    types = known_of(model).types if gaps else {}
    for number, node in enumerate(gaps):
        if all(name in types for name in node.input if name) and (body := _body(node, types, version)):
            body.domain, body.name = WITH_GAPS, f"{node.op_type}{number}"
            named.functions.append(body)
            node.domain, node.op_type = body.domain, body.name
            del node.attribute[:]  # the body has them already
    if any(node.domain == WITH_GAPS for node in gaps):
        named.opset_import.append(helper.make_opsetid(WITH_GAPS, 1))
    return named


def _body(node: onnx.NodeProto, types: Mapping[str, int], version: int) -> onnx.FunctionProto | None:
    schema = defs.get_schema(node.op_type, version)
    versions = [one for one in schema.context_dependent_function_opset_versions if one <= version]
    if not versions:
        return None
    given = [helper.make_tensor_type_proto(types[name], None) if name else onnx.TypeProto() for name in node.input]
    body = onnx.FunctionProto()
    body.ParseFromString(
        schema.get_context_dependent_function_with_opset_version(
            max(versions), node.SerializeToString(), [each.SerializeToString() for each in given]
        )
    )
    if not body.input:  # CausalConvWithState's says what it reads by the schema's names alone
        body.input.extend(each.name for each in schema.inputs)
        body.output.extend(each.name for each in schema.outputs)
    return body


def _has_body(operator: str, version: int) -> bool:
    try:
        schema = defs.get_schema(operator, version)
    except defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)
