"""What a quantised ONNX graph holds: tensors in 8 bits, quantised constants, products of one with the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

EIGHT_BITS = (np.dtype(np.uint8), np.dtype(np.int8))
SIGN = 128  # what makes a signed 8-bit number an unsigned one
PRODUCTS = ("Conv", "Gemm", "MatMul")
VALUE_PRESERVING = ("MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice")


@dataclass(frozen=True)
class Quantized:
    """A tensor in 8 bits: the real value is `(stored - zero_point) * scale`; stored unsigned, whatever the file has."""

    name: str
    scale: float
    zero_point: int


@dataclass(frozen=True)
class Weights:
    """A constant: the real value is `integers * scale`, the scale one number or one per output."""

    integers: np.ndarray
    scale: np.ndarray


class QuantizedGraph:
    """Reads a graph; names of tensors in, facts out."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self.constants[node.output[0]] = node.attribute[0].t
        self.producers = {name: node for node in graph.node for name in node.output}
        self.outputs = {value.name for value in graph.output} | set(_read_inside(graph))
        """Names that must stay: the graph's outputs, and what a branch or loop body reads from outside."""
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.quantized = dict(self._quantized_tensors())

    def _quantized_tensors(self) -> Iterator[tuple[str, Quantized]]:
        """Every output of a QuantizeLinear to 8 bits with one constant scale that only DequantizeLinear reads."""
        for node in self.graph.node:
            if node.op_type != "QuantizeLinear" or node.output[0] in self.outputs:
                continue
            name, parameters = node.output[0], self._parameters(node)
            readers = self.readers.get(name, [])
            if parameters is None or not readers:
                continue
            same = [r.op_type == "DequantizeLinear" and self._parameters(r) == parameters for r in readers]
            if all(same):
                yield name, Quantized(name, *parameters)

    def _parameters(self, node: onnx.NodeProto) -> tuple[float, int] | None:
        """Scale and zero point of unsigned storage of a QuantizeLinear or DequantizeLinear; None: not one of each."""
        scale = self._array(node.input[1])
        zero = self._array(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros((), np.uint8)
        if (
            scale is None
            or zero is None
            or scale.size != 1
            or scale.dtype != np.float32
            or zero.dtype not in EIGHT_BITS
        ):
            return None
        return float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0]) + (SIGN if zero.dtype == np.int8 else 0)

    def _array(self, name: str) -> np.ndarray | None:
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def dequantized(self, name: str) -> Quantized | None:
        """The quantised tensor of which `name` is the real value."""
        node = self.producers.get(name)
        return self.quantized.get(node.input[0]) if node is not None and node.op_type == "DequantizeLinear" else None

    def constant(self, name: str) -> np.ndarray | None:
        """A constant's real values, dequantised where it is stored quantised."""
        node = self.producers.get(name)
        if node is None or node.op_type != "DequantizeLinear":
            return self._array(name)
        stored = self._integers(node)
        return None if stored is None else (stored[0] * _along(stored[1], stored[2], stored[0].ndim)).astype(np.float32)

    def _integers(self, node: onnx.NodeProto) -> tuple[np.ndarray, np.ndarray, int] | None:
        """A quantised constant: values less their zero point, scale, and the axis along which the scale runs."""
        stored, scale = self._array(node.input[0]), self._array(node.input[1])
        zero = self._array(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros((), np.int64)
        if stored is None or scale is None or zero is None or scale.ndim > 1 or stored.dtype.kind not in "iu":
            return None
        axis = next((int(a.i) for a in node.attribute if a.name == "axis"), 1)
        if scale.ndim and stored.ndim == 1:
            axis = 0
        integers = stored.astype(np.int64) - _along(zero.astype(np.int64), axis, stored.ndim)
        return integers, scale.astype(np.float64), axis % max(stored.ndim, 1)

    def weights(self, node: onnx.NodeProto) -> Weights | None:
        """The quantised weights of a convolution [K,C,R,S] or product [C,K], as integers of 8 bits."""
        producer = self.producers.get(node.input[1])
        found = self._integers(producer) if producer is not None and producer.op_type == "DequantizeLinear" else None
        if found is None:
            return None
        integers, scale, axis = found
        if node.op_type == "Gemm" and attribute_of(node, "transB", 0):
            integers, axis = integers.T, 1 - axis
        if node.op_type != "Conv" and integers.ndim != 2:
            return None
        outputs = 0 if node.op_type == "Conv" else 1
        fits = integers.min() >= -SIGN and integers.max() < SIGN
        return Weights(integers, scale.reshape(-1)) if fits and (scale.size == 1 or axis == outputs) else None

    def is_product(self, node: onnx.NodeProto) -> bool:
        """Whether a node multiplies a quantised tensor with quantised constant weights."""
        if node.op_type not in PRODUCTS or self.dequantized(node.input[0]) is None or self.weights(node) is None:
            return False
        bias = node.input[2] if len(node.input) > 2 else ""
        if bias and self.constant(bias) is None:
            return False
        if node.op_type == "Gemm":
            plain = (attribute_of(node, "alpha", 1.0), attribute_of(node, "beta", 1.0), attribute_of(node, "transA", 0))
            return plain == (1.0, 1.0, 0)
        return node.op_type == "MatMul" or attribute_of(node, "group", 1) == 1

    def is_absorbed(self, node: onnx.NodeProto) -> bool:
        """Whether a DequantizeLinear is written anew by each of its readers."""
        return node.input[0] in self.quantized and node.output[0] not in self.outputs

    def keeps_values(self, node: onnx.NodeProto) -> bool:
        """Whether a node only picks or moves values between two quantisations with the same parameters."""
        if node.op_type not in VALUE_PRESERVING or len(node.output) != 1 or node.output[0] in self.outputs:
            return False
        source, readers = self.dequantized(node.input[0]), self.readers.get(node.output[0], [])
        if source is None or len(readers) != 1 or readers[0].output[0] not in self.quantized:
            return False
        result = self.quantized[readers[0].output[0]]
        return (source.scale, source.zero_point) == (result.scale, result.zero_point)


def _read_inside(graph: onnx.GraphProto) -> Iterator[str]:
    """What the graphs within a graph's nodes read."""
    for node in graph.node:
        for inner in (a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH):
            yield from (name for reader in inner.node for name in reader.input)
            yield from _read_inside(inner)


def _along(values: np.ndarray, axis: int, num_dims: int) -> np.ndarray:
    """One value per position of `axis`, in a shape that broadcasts."""
    if values.ndim == 0 or num_dims < 2:
        return values
    return values.reshape([-1 if i == axis % num_dims else 1 for i in range(num_dims)])


def attribute_of(node: onnx.NodeProto, name: str, default: float) -> float:
    found = next((attribute for attribute in node.attribute if attribute.name == name), None)
    return default if found is None else helper.get_attribute_value(found)
