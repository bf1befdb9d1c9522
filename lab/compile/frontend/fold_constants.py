"""Compute what does not depend on the inputs: operators on constants, and what a model derives from known shapes.

Exporters write chains such as Shape -> Cast -> Slice -> Concat -> Reshape, of which TVM's importer follows only some,
and weights behind Identity, Transpose, Cast or ConstantOfShape, where passes that fold and pack constants miss them.
"""

from __future__ import annotations

from collections.abc import Mapping

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
SMALL = 64
"""Elements of the longest shape, as it were."""
MAX_ELEMENTS = 1 << 28
REPEATS = frozenset({"Expand", "Range"})
"""A kernel makes these as it goes; beyond a shape's size a constant would only have to be read."""


def fold_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace operators on constants alone by what they compute. Changes `model`."""
    _fold_once(model, {})
    return model


def fold_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace Shape of a known shape too. Changes `model`.

    A Reshape whose target became a constant has a known shape now: it is gone through until nothing more becomes known.
    """
    num_nodes = len(model.graph.node) + 1
    while len(model.graph.node) < num_nodes:
        num_nodes = len(model.graph.node)
        _fold_once(model, _known_shapes(model))
    return model


def _fold_once(model: onnx.ModelProto, shapes: Mapping[str, list[int]]) -> None:
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    outputs = {value.name for value in model.graph.output}
    left = []
    for node in model.graph.node:
        value = None if outputs & set(node.output) else _value(node, shapes, constants, model)
        if value is None or value.size > (SMALL if node.op_type in REPEATS else MAX_ELEMENTS):
            left.append(node)
        else:
            model.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
            constants[node.output[0]] = model.graph.initializer[-1]
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
    node: onnx.NodeProto,
    shapes: Mapping[str, list[int]],
    constants: Mapping[str, onnx.TensorProto],
    model: onnx.ModelProto,
) -> np.ndarray | None:
    """What a node computes, where that is known."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Shape" and node.input[0] in shapes:
        bounds = {attribute.name: attribute.i for attribute in node.attribute}
        return np.array(shapes[node.input[0]][bounds.get("start", 0) : bounds.get("end")], np.int64)
    names = list(dict.fromkeys(filter(None, node.input)))
    if node.op_type not in FOLDED or len(node.output) != 1 or not all(name in constants for name in names):
        return None
    if node.op_type == "Constant" and not any(attribute.name in CONSTANT_VALUES for attribute in node.attribute):
        return None
    graph = onnx.helper.make_graph(
        [node], "node", [onnx.ValueInfoProto(name=name) for name in names], [onnx.ValueInfoProto(name=node.output[0])]
    )
    alone = onnx.helper.make_model(graph, opset_imports=model.opset_import)
    feed = {name: numpy_helper.to_array(constants[name]) for name in names}
    return np.asarray(ReferenceEvaluator(alone).run(None, feed)[0])
