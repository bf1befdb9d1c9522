"""Operators written in terms of others that the compiler knows: quantised ones, automatic padding, norms.

Adding one: a function here that returns the nodes to put in place (None: leave it), one line in the table, one test.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lab.compile.frontend.known import Known, known_of, opset_of


class Rewriting:
    """The nodes that replace one node, as they are made."""

    def __init__(self, model: onnx.ModelProto, known: Known, node: onnx.NodeProto) -> None:
        self.model, self.known, self.node = model, known, node
        self.attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self.nodes: list[onnx.NodeProto] = []

    def constant(self, array: Any) -> str:
        name = f"{self.node.output[0]}.constant{len(self.model.graph.initializer)}"
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def op(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        name = output or f"{self.node.output[0]}.{operator}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=self.node.name, **attributes))
        return name

    def input(self, index: int) -> str:
        return self.node.input[index] if index < len(self.node.input) else ""

    def pool_attributes(self) -> dict[str, Any]:
        names = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
        return {name: self.attributes[name] for name in names if name in self.attributes}


def rewrite(model: onnx.ModelProto) -> bool:
    """Rewrite every node of the main graph that has a rule, once. Changes `model`; whether anything changed."""
    if not any(node.op_type in RULES for node in model.graph.node):
        return False
    known = known_of(model)
    nodes: list[onnx.NodeProto] = []
    changed = False
    for node in model.graph.node:
        rule = RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else MICROSOFT.get(node.op_type)
        made = Rewriting(model, known, node) if rule else None
        if rule is None or made is None or not rule(made):
            nodes.append(node)
        else:
            nodes += made.nodes
            changed = True
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return changed


def _auto_pad(r: Rewriting) -> bool:
    """SAME and VALID as the padding they come to, by ONNX's formula."""
    mode = r.attributes.get("auto_pad", b"NOTSET").decode()
    shape = r.known.shapes.get(r.input(0))
    kernel = r.attributes.get("kernel_shape") or (r.known.shapes.get(r.input(1)) or [0, 0])[2:]
    if mode == "NOTSET" or shape is None or not kernel or len(r.node.input) > 3:
        return False
    num_axes = len(shape) - 2
    strides, dilations = (r.attributes.get(name) or [1] * num_axes for name in ("strides", "dilations"))
    begins, ends = [0] * num_axes, [0] * num_axes
    for axis in range(num_axes if mode != "VALID" else 0):
        size, reach = shape[2 + axis], (kernel[axis] - 1) * dilations[axis] + 1
        total = max((-(-size // strides[axis]) - 1) * strides[axis] + reach - size, 0)
        begins[axis] = total // 2 if mode == "SAME_UPPER" else total - total // 2
        ends[axis] = total - begins[axis]
    changed = onnx.NodeProto()
    changed.CopyFrom(r.node)
    del changed.attribute[:]
    given = {name: value for name, value in r.attributes.items() if name not in ("auto_pad", "pads")}
    if mode == "VALID":
        given.pop("ceil_mode", None)
    changed.attribute.extend(helper.make_attribute(k, v) for k, v in (given | {"pads": begins + ends}).items())
    r.nodes.append(changed)
    return True


def _lp_normalization(r: Rewriting) -> bool:
    """x / ||x||_p along an axis."""
    kind, dtype = r.known.types.get(r.input(0)), None
    axis = [int(r.attributes.get("axis", -1))]
    operator = "ReduceL1" if r.attributes.get("p", 2) == 1 else "ReduceL2"
    if kind:
        dtype = helper.tensor_dtype_to_np_dtype(kind)
    norm = (
        r.op(operator, r.input(0), r.constant(np.array(axis, np.int64)), keepdims=1)
        if opset_of(r.model) >= 18
        else r.op(operator, r.input(0), axes=axis, keepdims=1)
    )
    if dtype is None:
        return False
    # ONNX Runtime gives zeros where the norm is zero.
    safe = r.op("Where", r.op("Equal", norm, r.constant(np.zeros((), dtype))), r.constant(np.ones((), dtype)), norm)
    r.op("Div", r.input(0), safe, output=r.node.output[0])
    return True


def _qlinear_conv(r: Rewriting) -> bool:
    """DequantizeLinear of input and weights, Conv, QuantizeLinear: the form that the integer passes read."""
    x = r.op("DequantizeLinear", r.input(0), r.input(1), r.input(2))
    w = r.op("DequantizeLinear", r.input(3), r.input(4), r.input(5), axis=0)
    inputs = [x, w]
    if r.input(8):
        scales = [r.known.value(name) for name in (r.input(1), r.input(4))]
        if any(scale is None for scale in scales):
            return False
        scale = np.asarray(scales[0] * scales[1], np.float32).reshape(-1)  # type: ignore[operator]
        bias = r.known.value(r.input(8))
        if bias is None:
            return False
        inputs.append(r.constant((bias * scale).astype(np.float32)))
    y = r.op("Conv", *inputs, **r.pool_attributes())
    r.op("QuantizeLinear", y, r.input(6), r.input(7), output=r.node.output[0])
    return True


def _qlinear_matmul(r: Rewriting) -> bool:
    scale = r.known.shapes.get(r.input(4))
    if scale is None or int(np.prod(scale)) != 1 or int(np.prod(r.known.shapes.get(r.input(1), [2]))) != 1:
        return False  # scales of rows or columns
    scales = [r.input(1), r.input(4), r.input(6)]
    if r.known.types.get(scales[0]) == TensorProto.FLOAT16:  # the products are whole numbers beyond float16's range
        scales = [r.op("Cast", scale, to=TensorProto.FLOAT) for scale in scales]
    a = r.op("DequantizeLinear", r.input(0), scales[0], r.input(2))
    b = r.op("DequantizeLinear", r.input(3), scales[1], r.input(5))
    r.op("QuantizeLinear", r.op("MatMul", a, b), scales[2], r.input(7), output=r.node.output[0])
    return True


def _conv_integer(r: Rewriting) -> bool:
    """A convolution of whole numbers in floats: exact below 2^24, and within float32's rounding above."""
    zero_w = r.known.value(r.input(3)) if r.input(3) else np.zeros((), np.int8)
    if zero_w is None:
        return False
    x = r.op("Cast", r.input(0), to=TensorProto.FLOAT)
    w = r.op("Cast", r.input(1), to=TensorProto.FLOAT)
    if r.input(2):
        x = r.op("Sub", x, r.op("Cast", r.input(2), to=TensorProto.FLOAT))
    if zero_w.any():
        w = r.op("Sub", w, r.constant(zero_w.astype(np.float32).reshape((-1, 1, 1, 1) if zero_w.size > 1 else ())))
    y = r.op("Conv", x, w, **r.pool_attributes())
    r.op("Cast", r.op("Round", y), output=r.node.output[0], to=TensorProto.INT32)
    return True


def _qlinear_binary(operator: str) -> Callable[[Rewriting], bool]:
    def rule(r: Rewriting) -> bool:
        a = r.op("DequantizeLinear", r.input(0), r.input(1), *filter(None, [r.input(2)]))
        b = r.op("DequantizeLinear", r.input(3), r.input(4), *filter(None, [r.input(5)]))
        y = r.op(operator, a, b)
        r.op("QuantizeLinear", y, r.input(6), *filter(None, [r.input(7)]), output=r.node.output[0])
        return True

    return rule


def _qlinear_unary(operator: str, *passed: str) -> Callable[[Rewriting], bool]:
    def rule(r: Rewriting) -> bool:
        if r.attributes.get("channels_last", 0):
            return False
        x = r.op("DequantizeLinear", r.input(0), r.input(1), *filter(None, [r.input(2)]))
        y = r.op(operator, x, **{name: r.attributes[name] for name in passed if name in r.attributes})
        r.op("QuantizeLinear", y, r.input(3), *filter(None, [r.input(4)]), output=r.node.output[0])
        return True

    return rule


def _qlinear_concat(r: Rewriting) -> bool:
    triples = [[r.input(i + k) for k in range(3)] for i in range(2, len(r.node.input), 3)]
    y = r.op("Concat", *[r.op("DequantizeLinear", *triple) for triple in triples], axis=r.attributes["axis"])
    r.op("QuantizeLinear", y, r.input(0), r.input(1), output=r.node.output[0])
    return True


POOL = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")
MICROSOFT: dict[str, Callable[[Rewriting], bool]] = {
    "QLinearAdd": _qlinear_binary("Add"),
    "QLinearAveragePool": _qlinear_unary("AveragePool", *POOL),
    "QLinearConcat": _qlinear_concat,
    "QLinearGlobalAveragePool": _qlinear_unary("GlobalAveragePool"),
    "QLinearLeakyRelu": _qlinear_unary("LeakyRelu", "alpha"),
    "QLinearMul": _qlinear_binary("Mul"),
    "QLinearSigmoid": _qlinear_unary("Sigmoid"),
}
RULES: dict[str, Callable[[Rewriting], bool]] = MICROSOFT | {
    "AveragePool": _auto_pad,
    "Conv": _auto_pad,
    "ConvInteger": _conv_integer,
    "LpNormalization": _lp_normalization,
    "LpPool": _auto_pad,
    "MaxPool": _auto_pad,
    "QLinearConv": _qlinear_conv,
    "QLinearMatMul": _qlinear_matmul,
}
