"""Turn a quantised ONNX graph (QuantizeLinear / DequantizeLinear pairs) inside out, so that products read integers.

`Conv(DQ(x), DQ(w)) + b` becomes `Conv(x - zero, w) * scale + b`: values between operators are then stored in 8 bits,
and what a product multiplies are whole numbers, from which `passes.integer_products` makes integer kernels where the
target has them. Where it has none the graph is still right: a float holds every 8-bit number.

Two roundings differ from the graph as written, both far below a quantisation step: values are multiplied by 1 / scale
instead of divided by scale, and a product's scale is one float, the product of three.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

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


def integer_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rewrite `model` where a convolution or product of a quantised tensor and quantised constant weights is found.

    Changes `model` and returns it. Everything else of a quantised graph keeps its meaning.
    """
    rewriter = _Rewriter(model.graph)
    if any(rewriter.is_product(node) for node in model.graph.node):
        rewriter.rewrite()
    return model


class _Rewriter:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self.constants[node.output[0]] = node.attribute[0].t
        self.producers = {name: node for node in graph.node for name in node.output}
        self.outputs = {value.name for value in graph.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.quantized = dict(self._quantized_tensors())
        self.made: list[onnx.NodeProto] = []
        self.skipped: set[str] = set()  # outputs of nodes that were rewritten together with an earlier one
        self.prescaled: set[str] = set()  # quantisations whose scale a product already carries

    def rewrite(self) -> None:
        for node in list(self.graph.node):
            if node.output[0] in self.skipped or (node.op_type == "DequantizeLinear" and self._is_absorbed(node)):
                continue
            if self.is_product(node):
                self._product(node)
            elif node.op_type == "QuantizeLinear" and node.output[0] in self.quantized:
                self._quantize(node)
            elif self._keeps_values(node):
                self._on_stored(node)
            else:
                self._general(node)
        del self.graph.node[:]
        self.graph.node.extend(self.made)

    # --- what there is ---

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

    def _dequantized(self, name: str) -> Quantized | None:
        """The quantised tensor of which `name` is the real value."""
        node = self.producers.get(name)
        return self.quantized.get(node.input[0]) if node is not None and node.op_type == "DequantizeLinear" else None

    def _constant(self, name: str) -> np.ndarray | None:
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

    def _weights(self, node: onnx.NodeProto) -> Weights | None:
        """The quantised weights of a convolution [K,C,R,S] or product [C,K], as integers of 8 bits."""
        producer = self.producers.get(node.input[1])
        found = self._integers(producer) if producer is not None and producer.op_type == "DequantizeLinear" else None
        if found is None:
            return None
        integers, scale, axis = found
        if node.op_type == "Gemm" and _attribute(node, "transB", 0):
            integers, axis = integers.T, 1 - axis
        if node.op_type != "Conv" and integers.ndim != 2:
            return None
        outputs = 0 if node.op_type == "Conv" else 1
        fits = integers.min() >= -SIGN and integers.max() < SIGN
        return Weights(integers, scale.reshape(-1)) if fits and (scale.size == 1 or axis == outputs) else None

    def is_product(self, node: onnx.NodeProto) -> bool:
        """Whether a node multiplies a quantised tensor with quantised constant weights."""
        if node.op_type not in PRODUCTS or self._dequantized(node.input[0]) is None or self._weights(node) is None:
            return False
        bias = node.input[2] if len(node.input) > 2 else ""
        if bias and self._constant(bias) is None:
            return False
        if node.op_type == "Gemm":
            plain = (_attribute(node, "alpha", 1.0), _attribute(node, "beta", 1.0), _attribute(node, "transA", 0))
            return plain == (1.0, 1.0, 0)
        return node.op_type == "MatMul" or _attribute(node, "group", 1) == 1

    def _is_absorbed(self, node: onnx.NodeProto) -> bool:
        """Whether a DequantizeLinear is written anew by each of its readers."""
        return node.input[0] in self.quantized and node.output[0] not in self.outputs

    def _keeps_values(self, node: onnx.NodeProto) -> bool:
        """Whether a node only picks or moves values between two quantisations with the same parameters."""
        if node.op_type not in VALUE_PRESERVING or len(node.output) != 1 or node.output[0] in self.outputs:
            return False
        source, readers = self._dequantized(node.input[0]), self.readers.get(node.output[0], [])
        if source is None or len(readers) != 1 or readers[0].output[0] not in self.quantized:
            return False
        result = self.quantized[readers[0].output[0]]
        return (source.scale, source.zero_point) == (result.scale, result.zero_point)

    # --- what becomes of it ---

    def _product(self, node: onnx.NodeProto) -> None:
        source, weights = self._dequantized(node.input[0]), self._weights(node)
        assert source is not None
        assert weights is not None
        prefix = f"{node.output[0]}.integer"
        rank = weights.integers.ndim if node.op_type == "Conv" else 2
        scale = source.scale * weights.scale
        bias = self._constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        target = self._quantized_behind(node)
        if target is not None:  # the product counts in steps of what it is rounded to
            scale = scale / target.scale
            self.prescaled.add(target.name)
        integers = self._initializer(f"{prefix}.weights", weights.integers)
        inputs = [self._less_zero(source, prefix), integers]
        op = "Conv" if node.op_type == "Conv" else "MatMul"
        kept = list(node.attribute) if op == "Conv" else []
        product = helper.make_node(op, inputs, [f"{prefix}.product"], name=f"{prefix}.product")
        product.attribute.extend(kept)
        self.made.append(product)
        shape = (-1, *[1] * (rank - 2)) if op == "Conv" else (-1,)
        terms = [("Mul", scale)]
        if bias is not None:
            terms.append(("Add", bias.astype(np.float64) / (target.scale if target else 1.0)))
        name = product.output[0]
        for i, (term, value) in enumerate(terms):
            last = i == len(terms) - 1
            shaped = value if term == "Add" and value.ndim > 1 else value.reshape(shape)
            constant = self._initializer(f"{prefix}.{term}", shaped)
            name = self._emit(term, [name, constant], node.output[0] if last else f"{prefix}.{term}.result")

    def _quantized_behind(self, node: onnx.NodeProto) -> Quantized | None:
        """What a product is quantised to when nothing but a ReLU lies between."""
        name = node.output[0]
        while len(self.readers.get(name, [])) == 1 and name not in self.outputs:
            reader = self.readers[name][0]
            if reader.op_type == "QuantizeLinear":
                return self.quantized.get(reader.output[0])
            if reader.op_type != "Relu":
                return None
            name = reader.output[0]
        return None

    def _quantize(self, node: onnx.NodeProto) -> None:
        target = self.quantized[node.output[0]]
        name = node.input[0]
        if target.name not in self.prescaled:
            inverse = self._initializer(f"{target.name}.inverse_scale", np.array(1.0 / target.scale))
            name = self._emit("Mul", [name, inverse], f"{target.name}.scaled")
        name = self._emit("Round", [name], f"{target.name}.rounded")
        if target.zero_point:
            zero = self._initializer(f"{target.name}.zero", np.array(target.zero_point))
            name = self._emit("Add", [name, zero], f"{target.name}.shifted")
        bounds = [self._initializer(f"{target.name}.{bound}", np.array(bound)) for bound in (0, 255)]
        name = self._emit("Clip", [name, *bounds], f"{target.name}.clipped")
        self._emit("Cast", [name], target.name, to=TensorProto.UINT8)

    def _on_stored(self, node: onnx.NodeProto) -> None:
        """Pick or move the stored numbers themselves."""
        source, quantize = self._dequantized(node.input[0]), self.readers[node.output[0]][0]
        assert source is not None
        moved = onnx.NodeProto()
        moved.CopyFrom(node)
        moved.input[0], moved.output[0] = source.name, quantize.output[0]
        self.made.append(moved)
        self.skipped.add(quantize.output[0])

    def _general(self, node: onnx.NodeProto) -> None:
        """A node of another kind: it reads real values."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if node.op_type == "DequantizeLinear" and node.input[0] in self.quantized:  # an output of the model
            self._real_value(self.quantized[node.input[0]], node.output[0], node.output[0])
            return
        for i, name in enumerate(node.input):
            source = self._dequantized(name)
            if source is not None:
                prefix = f"{name}.for.{node.output[0]}"
                copy.input[i] = self._real_value(source, prefix, f"{prefix}.real")
        self.made.append(copy)

    def _real_value(self, source: Quantized, prefix: str, result: str) -> str:
        scale = self._initializer(f"{prefix}.scale", np.array(source.scale))
        return self._emit("Mul", [self._less_zero(source, prefix), scale], result)

    def _less_zero(self, source: Quantized, prefix: str) -> str:
        """`stored - zero_point` as floats."""
        name = self._emit("Cast", [source.name], f"{prefix}.cast", to=TensorProto.FLOAT)
        if not source.zero_point:
            return name
        return self._emit(
            "Sub", [name, self._initializer(f"{prefix}.zero", np.array(source.zero_point))], f"{prefix}.x"
        )

    def _emit(self, op: str, inputs: list[str], output: str, **attributes: int) -> str:
        self.made.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def _initializer(self, name: str, value: np.ndarray) -> str:
        self.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32, order="C"), name))
        return name


def _along(values: np.ndarray, axis: int, num_dims: int) -> np.ndarray:
    """One value per position of `axis`, in a shape that broadcasts."""
    if values.ndim == 0 or num_dims < 2:
        return values
    return values.reshape([-1 if i == axis % num_dims else 1 for i in range(num_dims)])


def _attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    found = next((attribute for attribute in node.attribute if attribute.name == name), None)
    return default if found is None else helper.get_attribute_value(found)
