"""Fold batch normalisations, which exporters of training graphs leave: into the convolution before, or to x a + b."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from lab.compile.frontend.known import opset_of

MIN_OPSET = 7
"""Multiply and Add broadcast by themselves from here on."""


def fold_batch_norm(model: onnx.ModelProto) -> onnx.ModelProto:
    """Conv -> BatchNormalization becomes one Conv: `w' = w g / sqrt(v + eps)`, `b' = (b - m) g / sqrt(v + eps) + beta`.

    Only where the convolution feeds nothing else. Any other becomes `x a + b`: TVM would subtract, divide, multiply and
    add. Only with constant parameters; computed in float64. Changes `model` and returns it.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    num_readers = _num_readers(graph)
    for norm in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        conv = producers.get(norm.input[0])
        if conv is None or not _can_fold(conv, norm, constants, num_readers):
            continue
        _fold(graph, conv, norm, constants)
    left = [node for node in graph.node if node.op_type == "BatchNormalization" and _is_constant(node, constants)]
    if left and opset_of(model) >= MIN_OPSET:
        ranks = _ranks(model)
        for norm in left:
            if norm.input[0] in ranks:
                _to_scale_and_shift(graph, norm, ranks[norm.input[0]], constants)
    return model


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    inferred = shape_inference.infer_shapes(model).graph
    values = [value for value in (*inferred.value_info, *inferred.input) if value.type.tensor_type.HasField("shape")]
    return {value.name: len(value.type.tensor_type.shape.dim) for value in values}


def _num_readers(graph: onnx.GraphProto) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in [name for node in graph.node for name in node.input] + [output.name for output in graph.output]:
        counts[name] = counts.get(name, 0) + 1
    return counts


def _can_fold(
    conv: onnx.NodeProto,
    norm: onnx.NodeProto,
    constants: dict[str, onnx.TensorProto],
    num_readers: dict[str, int],
) -> bool:
    return (
        conv.op_type == "Conv"
        and num_readers.get(conv.output[0]) == 1
        and all(name in constants for name in conv.input[1:])
        and _is_constant(norm, constants)
    )


def _is_constant(norm: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    """Whether it only scales and shifts each channel, by numbers that are known."""
    attributes = {attribute.name: attribute.i for attribute in norm.attribute}
    return (
        len([name for name in norm.output if name]) == 1
        and not attributes.get("training_mode", 0)
        and bool(attributes.get("spatial", 1))
        and all(name in constants for name in norm.input[1:])
    )


def _scale_and_shift(
    norm: onnx.NodeProto, constants: dict[str, onnx.TensorProto]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per channel, in float64: `a` of x a + b, beta, and the mean."""
    gamma, beta, mean, variance = (
        numpy_helper.to_array(constants[name]).astype(np.float64) for name in norm.input[1:5]
    )
    epsilon = next((attribute.f for attribute in norm.attribute if attribute.name == "epsilon"), 1e-5)
    return gamma / np.sqrt(variance + epsilon), beta, mean


def _to_scale_and_shift(
    graph: onnx.GraphProto, norm: onnx.NodeProto, rank: int, constants: dict[str, onnx.TensorProto]
) -> None:
    scale, beta, mean = _scale_and_shift(norm, constants)
    dtype = helper.tensor_dtype_to_np_dtype(constants[norm.input[1]].data_type)
    names = [f"{norm.output[0]}.scale", f"{norm.output[0]}.shift"]
    for name, value in zip(names, (scale, beta - mean * scale), strict=True):
        array = value.astype(dtype).reshape(-1, *[1] * (rank - 2)) if rank > 1 else value.astype(dtype)
        graph.initializer.append(numpy_helper.from_array(array, name))
    scaled = f"{norm.output[0]}.scaled"
    index = list(graph.node).index(norm)
    graph.node.insert(index, helper.make_node("Mul", [norm.input[0], names[0]], [scaled], name=scaled))
    shifted = helper.make_node("Add", [scaled, names[1]], norm.output, name=norm.name)
    graph.node[index + 1].CopyFrom(shifted)


def _fold(
    graph: onnx.GraphProto, conv: onnx.NodeProto, norm: onnx.NodeProto, constants: dict[str, onnx.TensorProto]
) -> None:
    weight = numpy_helper.to_array(constants[conv.input[1]])
    scale, beta, mean = _scale_and_shift(norm, constants)
    bias = numpy_helper.to_array(constants[conv.input[2]]) if len(conv.input) > 2 else np.zeros_like(mean)
    folded_weight = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    folded_bias = (bias - mean) * scale + beta
    names = [f"{norm.output[0]}.folded_weight", f"{norm.output[0]}.folded_bias"]
    for name, value in zip(names, (folded_weight, folded_bias), strict=True):
        graph.initializer.append(numpy_helper.from_array(value.astype(weight.dtype), name))
        constants[name] = graph.initializer[-1]
    del conv.input[1:]
    conv.input.extend(names)
    conv.output[0] = norm.output[0]
    graph.node.remove(norm)
