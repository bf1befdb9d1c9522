"""What is known of a graph before it is converted: constants, shapes, element types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper, shape_inference


class Known(NamedTuple):
    """Of a model's values by name. `shapes` holds the static ones; `types` are ONNX's element types."""

    constants: Mapping[str, onnx.TensorProto]
    shapes: Mapping[str, list[int]]
    types: Mapping[str, int]

    def value(self, name: str) -> np.ndarray | None:
        """The constant of this name, if it is one."""
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that the model is written in; 0 where it uses none."""
    return next((int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def known_of(model: onnx.ModelProto) -> Known:
    """Infer shapes and types; constants are initializers and Constant nodes with a tensor."""
    inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    shapes, types = {}, {}
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        tensor = value.type.tensor_type
        types[value.name] = tensor.elem_type
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            shapes[value.name] = [dim.dim_value for dim in tensor.shape.dim]
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    for name, tensor in constants.items():
        types[name], shapes[name] = tensor.data_type, list(tensor.dims)
    return Known(constants, shapes, types)
