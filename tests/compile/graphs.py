"""Small ONNX graphs for the compiler's tests: single operators, a CIFAR-like network, and random mixes."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 18


class Graph:
    """Builds one graph: `g.op("Relu", x)` returns the name of its result; constants are seeded."""

    def __init__(self, input_shape: Sequence[int | str], seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(input_shape))]
        self.num_names = 0

    def name(self, stem: str) -> str:
        self.num_names += 1
        return f"{stem.lower()}_{self.num_names}"

    def constant(self, array: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(array, self.name("const")))
        return self.constants[-1].name

    def weights(self, *shape: int) -> str:
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
        return self.constant((self.rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32))

    def op(self, op_type: str, *inputs: str, **attributes: object) -> str:
        result = self.name(op_type)
        self.nodes.append(helper.make_node(op_type, list(inputs), [result], name=f"node_{result}", **attributes))
        return result

    def conv(self, x: str, channels: int, out: int, kernel: Sequence[int] = (3, 3), **attributes: object) -> str:
        groups = int(attributes.get("group", 1))  # type: ignore[call-overload]
        return self.op("Conv", x, self.weights(out, channels // groups, *kernel), self.weights(out), **attributes)

    def batch_norm(self, x: str, channels: int) -> str:
        variance = self.constant(self.rng.uniform(0.5, 2.0, channels).astype(np.float32))
        scale, bias, mean = (self.weights(channels) for _ in range(3))
        return self.op("BatchNormalization", x, scale, bias, mean, variance)

    def model(self, *outputs: str, opset: int = OPSET) -> onnx.ModelProto:
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "graph", self.inputs, values, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
        return onnx.shape_inference.infer_shapes(model, data_prop=True)

    def save(self, path: Path, *outputs: str, opset: int = OPSET) -> Path:
        onnx.save(self.model(*outputs, opset=opset), path)
        return path


def residual_network(path: Path, *, channels: int = 1, size: int = 12, num_classes: int = 10, width: int = 16) -> Path:
    """A CIFAR-like residual network with unfolded batch norms: stem, one plain and one strided block, head."""
    g = Graph(["batch", channels, size, size])
    x = g.op("Relu", g.batch_norm(g.conv("x", channels, width, pads=[1, 1, 1, 1]), width))
    for stride in (1, 2):
        out = width * stride
        y = g.op("Relu", g.batch_norm(g.conv(x, width, out, pads=[1, 1, 1, 1], strides=[stride] * 2), out))
        y = g.batch_norm(g.conv(y, out, out, pads=[1, 1, 1, 1]), out)
        shortcut = x if stride == 1 else g.conv(x, width, out, (1, 1), strides=[2, 2])
        x = g.op("Relu", g.op("Add", y, shortcut))
    pooled = g.op("Flatten", g.op("GlobalAveragePool", x))
    logits = g.op("Gemm", pooled, g.weights(num_classes, 2 * width), g.weights(num_classes), transB=1)
    return g.save(path, logits)


class RandomGraph:
    """A random chain of operators over an image, with odd sizes on purpose.

    One in three is wide: whole vectors of channels on an image large enough for Winograd's convolutions. One in four
    has a dynamic batch.
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.wide = seed % 3 == 2
        self.batch = int(self.rng.integers(1, 4))
        self.channels = self.pick(16, 32, 48) if self.wide else self.pick(1, 3, 5, 8, 16, 17)
        sizes = ((19, 24, 30, 33), (17, 20, 28, 37)) if self.wide else ((5, 7, 9, 12, 13), (5, 8, 11, 14))
        self.height, self.width = self.pick(*sizes[0]), self.pick(*sizes[1])
        self.input_shape = (self.batch, self.channels, self.height, self.width)
        self.dynamic = seed % 4 == 3
        self.g = Graph(["batch" if self.dynamic else self.batch, *self.input_shape[1:]], seed)

    def pick(self, *options: int) -> int:
        return int(self.rng.choice(options))

    def model(self) -> onnx.ModelProto:
        x = "x"
        steps = [
            self.conv,
            self.depthwise,
            self.pool,
            self.norm,
            self.activation,
            self.residual,
            self.concat,
            self.scale,
            self.resize,
        ]
        for step in self.rng.choice(np.array(steps, dtype=object), size=self.pick(1, 2, 3, 4)):
            x = step(x)
        return self.g.model(self.head(x))

    def conv(self, x: str) -> str:
        out = self.pick(16, 32, 64) if self.wide else self.pick(1, 6, 10, 16, 24, 32)
        kernel = [3, 3] if self.wide else [min(self.pick(1, 3, 5), size) for size in (self.height, self.width)]
        small = max(kernel) > 3 or min(self.height, self.width) <= 4
        dilations = [1, 1] if small else [self.pick(1, 1, 2)] * 2 if self.wide else [self.pick(1, 1, 2) for _ in "hw"]
        strides = [self.pick(1, 1, 1, 2)] * 2 if self.wide else [self.pick(1, 1, 2) for _ in "hw"]
        pads = [self.pick(0, 1, 2) for _ in range(4)] if self.pick(0, 1) else [self.pick(0, 1, 2)] * 4
        groups = gcd(self.channels, out) if self.pick(0, 0, 0, 1) else 1
        x = self.g.conv(
            x, self.channels, out, kernel, strides=strides, pads=pads, dilations=dilations, group=groups
        )  # fmt: skip
        self.channels = out
        self._shrink(kernel, strides, pads, dilations)
        return x

    def depthwise(self, x: str) -> str:
        kernel = [min(3, self.height), min(3, self.width)]
        out = self.channels * self.pick(1, 1, 2)
        x = self.g.conv(x, self.channels, out, kernel, group=self.channels, pads=[1, 1, 1, 1])
        self.channels = out
        self._shrink(kernel, [1, 1], [1] * 4, [1, 1])
        return x

    def pool(self, x: str) -> str:
        kernel = [min(self.pick(2, 3), self.height), min(self.pick(2, 3), self.width)]
        stride, pad = self.pick(1, 2), self.pick(0, 1)
        attributes: dict[str, object] = {"kernel_shape": kernel, "strides": [stride] * 2, "pads": [pad] * 4}
        kind = "MaxPool" if self.pick(0, 1) else "AveragePool"
        if kind == "AveragePool":
            attributes["count_include_pad"] = self.pick(0, 1)
        if min(kernel) <= pad:
            attributes["pads"], pad = [0] * 4, 0
        x = self.g.op(kind, x, **attributes)
        self._shrink(kernel, [stride] * 2, [pad] * 4, [1, 1])
        return x

    def norm(self, x: str) -> str:
        return self.g.batch_norm(x, self.channels)

    def activation(self, x: str) -> str:
        return self.g.op(str(self.rng.choice(["Relu", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "HardSwish"])), x)

    def residual(self, x: str) -> str:
        return self.g.op("Add", x, self.g.conv(x, self.channels, self.channels, (1, 1)))

    def concat(self, x: str) -> str:
        x = self.g.op("Concat", x, self.g.op("Relu", x), axis=1)
        self.channels *= 2
        return x

    def scale(self, x: str) -> str:
        return self.g.op("Mul", x, self.g.weights(1, self.channels, 1, 1))

    def resize(self, x: str) -> str:
        factor = self.pick(1, 2, 3)
        scales = self.g.constant(np.array([1, 1, factor, factor], np.float32))
        mode = str(self.rng.choice(["linear", "nearest"]))
        at = str(self.rng.choice(["half_pixel", "asymmetric", "align_corners"] if mode == "linear" else ["asymmetric"]))
        rounding = {"nearest_mode": "floor"} if mode == "nearest" else {}
        self.height, self.width = self.height * factor, self.width * factor
        return self.g.op("Resize", x, "", scales, mode=mode, coordinate_transformation_mode=at, **rounding)

    def head(self, x: str) -> str:
        kind = self.pick(0, 1, 2, 3, 4)
        if kind == 0:
            return x
        if kind == 1:
            return self.g.op("Softmax", x, axis=self.pick(1, 3))
        if kind == 2:
            return self.g.op("Transpose", x, perm=[0, 2, 3, 1])
        if kind == 3:
            features = self.channels
            x = self.g.op("Flatten", self.g.op("GlobalAveragePool", x))
        else:
            features = self.channels * self.height * self.width
            x = self.g.op("Flatten", x)
        out = self.pick(1, 7, 10, 40)
        logits = self.g.op("Gemm", x, self.g.weights(out, features), self.g.weights(out), transB=1)
        return self.g.op("Softmax", logits, axis=1) if self.pick(0, 1) else logits

    def _shrink(
        self, kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int]
    ) -> None:
        """The size behind a window; `pads` are ONNX's: top, left, bottom, right."""
        self.height, self.width = (
            (size + pads[i] + pads[i + 2] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1
            for i, size in enumerate((self.height, self.width))
        )
