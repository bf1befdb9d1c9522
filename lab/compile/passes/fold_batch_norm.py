"""Fold a batch normalisation into the convolution before it (exporters that keep training graphs leave them apart)."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper


def fold_batch_norm(model: onnx.ModelProto) -> onnx.ModelProto:
    """Conv -> BatchNormalization becomes one Conv: `w' = w g / sqrt(v + eps)`, `b' = (b - m) g / sqrt(v + eps) + beta`.

    Only where the convolution feeds nothing else and every parameter is a constant; computed in float64. Changes
    `model` and returns it.
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
    return model


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
    training = any(attribute.name == "training_mode" and attribute.i for attribute in norm.attribute)
    return (
        conv.op_type == "Conv"
        and num_readers.get(conv.output[0]) == 1
        and len([name for name in norm.output if name]) == 1
        and not training
        and all(name in constants for name in (*conv.input[1:], *norm.input[1:]))
    )


def _fold(
    graph: onnx.GraphProto, conv: onnx.NodeProto, norm: onnx.NodeProto, constants: dict[str, onnx.TensorProto]
) -> None:
    weight = numpy_helper.to_array(constants[conv.input[1]])
    gamma, beta, mean, variance = (
        numpy_helper.to_array(constants[name]).astype(np.float64) for name in norm.input[1:5]
    )
    epsilon = next((attribute.f for attribute in norm.attribute if attribute.name == "epsilon"), 1e-5)
    bias = numpy_helper.to_array(constants[conv.input[2]]) if len(conv.input) > 2 else np.zeros_like(mean)
    scale = gamma / np.sqrt(variance + epsilon)
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
