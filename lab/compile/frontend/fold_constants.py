"""Compute what a model derives from shapes: with every dimension fixed these are constants, however long the chain.

Exporters write chains such as Shape -> Cast -> Slice -> Concat -> Reshape, of which TVM's importer follows only some.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

FOLDED = frozenset({
    "Abs", "Add", "And", "Cast", "CastLike", "Ceil", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Expand",
    "Floor", "Gather", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul",
    "Neg", "Not", "Or", "Range", "ReduceProd", "Reshape", "Slice", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze",
    "Where",
})  # fmt: skip
CONSTANT_VALUES = ("value", "value_float", "value_floats", "value_int", "value_ints")
MAX_ELEMENTS = 64  # shapes are short; weights are not computed here


def fold_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace Shape of a known shape, and small operators on constants alone, by constants. Changes `model`.

    A Reshape whose target became a constant has a known shape now: it is gone through until nothing more becomes known.
    """
    num_nodes = len(model.graph.node) + 1
    while len(model.graph.node) < num_nodes:
        num_nodes = len(model.graph.node)
        _fold_once(model)
    return model


def _fold_once(model: onnx.ModelProto) -> None:
    shapes = _known_shapes(model)
    small = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if int(np.prod(tensor.dims)) <= MAX_ELEMENTS
    }
    outputs = {value.name for value in model.graph.output}
    left = []
    for node in model.graph.node:
        value = None if outputs & set(node.output) else _value(node, shapes, small, model)
        if value is None or value.size > MAX_ELEMENTS:
            left.append(node)
        else:
            small[node.output[0]] = value
            model.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
    del model.graph.node[:]
    model.graph.node.extend(left)


def _known_shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    known = {}
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            known[value.name] = [dim.dim_value for dim in dims]
    return known


def _value(
    node: onnx.NodeProto, shapes: dict[str, list[int]], small: dict[str, np.ndarray], model: onnx.ModelProto
) -> np.ndarray | None:
    """What a node computes, where that is known."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Shape" and node.input[0] in shapes:
        bounds = {attribute.name: attribute.i for attribute in node.attribute}
        return np.array(shapes[node.input[0]][bounds.get("start", 0) : bounds.get("end")], np.int64)
    if node.op_type not in FOLDED or not all(name in small for name in node.input if name) or len(node.output) != 1:
        return None
    if node.op_type == "Constant" and not any(attribute.name in CONSTANT_VALUES for attribute in node.attribute):
        return None
    inputs = [onnx.ValueInfoProto(name=name) for name in dict.fromkeys(filter(None, node.input))]
    graph = onnx.helper.make_graph([node], "node", inputs, [onnx.ValueInfoProto(name=node.output[0])])
    alone = onnx.helper.make_model(graph, opset_imports=model.opset_import)
    return np.asarray(ReferenceEvaluator(alone).run(None, {name: small[name] for name in node.input if name})[0])
