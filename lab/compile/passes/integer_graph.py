"""Turn a quantised ONNX graph (QuantizeLinear / DequantizeLinear pairs) inside out, so that products read integers.

`Conv(DQ(x), DQ(w)) + b` becomes `Conv(x - zero, w) * scale + b`: values between operators are then stored in 8 bits,
and what a product multiplies are whole numbers, from which `passes.integer_products` makes integer kernels where the
target has them. Where it has none the graph is still right: a float holds every 8-bit number.

Two roundings differ from the graph as written, both far below a quantisation step: values are multiplied by 1 / scale
instead of divided by scale, and a product's scale is one float, the product of three.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lab.compile.frontend.known import opset_of
from lab.compile.passes.quantized_graph import Quantized, QuantizedGraph

MIN_OPSET = 11  # Round, and Clip with its bounds as inputs


def integer_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rewrite `model` where a convolution or product of a quantised tensor and quantised constant weights is found.

    Changes `model` and returns it. Everything else of a quantised graph keeps its meaning.
    """
    rewriter = _Rewriter(model.graph)
    opset = opset_of(model)
    if opset >= MIN_OPSET and any(rewriter.is_product(node) for node in model.graph.node):
        rewriter.rewrite()
    return model


class _Rewriter(QuantizedGraph):
    def __init__(self, graph: onnx.GraphProto) -> None:
        super().__init__(graph)
        self.made: list[onnx.NodeProto] = []
        self.skipped: set[str] = set()  # outputs of nodes that were rewritten together with an earlier one
        self.prescaled: set[str] = set()  # quantisations whose scale a product already carries

    def rewrite(self) -> None:
        for node in list(self.graph.node):
            if node.output[0] in self.skipped or (node.op_type == "DequantizeLinear" and self.is_absorbed(node)):
                continue
            if self.is_product(node):
                self._product(node)
            elif node.op_type == "QuantizeLinear" and node.output[0] in self.quantized:
                self._quantize(node)
            elif self.keeps_values(node):
                self._on_stored(node)
            else:
                self._general(node)
        del self.graph.node[:]
        self.graph.node.extend(self.made)
        typed = [value for value in self.graph.value_info if value.name not in self.quantized]
        del self.graph.value_info[:]  # of what may have been signed
        self.graph.value_info.extend(typed)

    def _product(self, node: onnx.NodeProto) -> None:
        source, weights = self.dequantized(node.input[0]), self.weights(node)
        assert source is not None
        assert weights is not None
        prefix = f"{node.output[0]}.integer"
        rank = weights.integers.ndim if node.op_type == "Conv" else 2
        scale = source.scale * weights.scale
        bias = self.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
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
        source, quantize = self.dequantized(node.input[0]), self.readers[node.output[0]][0]
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
            source = self.dequantized(name)
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
