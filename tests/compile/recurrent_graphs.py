"""Random ONNX graphs of one or two recurrent layers, with every option the operators have and the compiler takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

NUM_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@dataclass
class RecurrentGraph:
    """One random graph; `feed()` makes inputs of any length."""

    seed: int
    cell: str = ""

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.cell = self.cell or str(self.rng.choice(["LSTM", "GRU", "RNN"], p=[0.45, 0.45, 0.1]))
        self.batch, self.num_inputs = self.pick(1, 1, 2, 3, 5, 8), self.pick(1, 3, 8, 17)
        self.dynamic = bool(self.pick(0, 1))
        self.num_steps = self.pick(1, 2, 5, 11)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs = {"x": ("length" if self.dynamic else self.num_steps, self.batch, self.num_inputs)}
        self.lengths_given = False
        self.outputs: list[str] = []

    def pick(self, *options: int) -> int:
        return int(self.rng.choice(options))

    def constant(self, name: str, *shape: int, scale: float = 0.5) -> str:
        array = (self.rng.standard_normal(shape) * scale).astype(np.float32)
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def layer(self, index: int, x: str, num_inputs: int) -> tuple[str, int]:
        """One node after `x`; the name and width of its outputs as [length, batch, width]."""
        gates, hidden = NUM_GATES[self.cell], self.pick(1, 4, 7, 8, 16, 20, 33)
        direction = str(self.rng.choice(["forward", "reverse", "bidirectional"]))
        d = 2 if direction == "bidirectional" else 1
        scale = 1.0 / np.sqrt(hidden)
        w = self.constant(f"w{index}", d, gates * hidden, num_inputs, scale=1.0 / np.sqrt(num_inputs))
        r = self.constant(f"r{index}", d, gates * hidden, hidden, scale=scale)
        b = self.constant(f"b{index}", d, 2 * gates * hidden) if self.pick(0, 1, 1) else ""
        lengths = "lengths" if self.pick(0, 1) else ""
        if lengths:
            self.inputs["lengths"] = (self.batch,)
        names = [w, r, b, lengths, *self.states(index, d, hidden)]
        if self.cell == "LSTM" and self.pick(0, 0, 1):
            names = [*names, *[""] * (6 - len(names)), self.constant(f"p{index}", d, 3 * hidden)]
        attributes: dict[str, object] = {"hidden_size": hidden, "direction": direction}
        if self.cell == "GRU":
            attributes["linear_before_reset"] = self.pick(0, 1)
        if self.cell == "RNN" and self.pick(0, 1):
            attributes["activations"] = ["Relu"] * d
        results = [f"y{index}", f"h{index}", f"c{index}"][: 3 if self.cell == "LSTM" else 2]
        self.nodes.append(helper.make_node(self.cell, [x, *names], results, **attributes))
        self.outputs += results
        return self.merged(index, d, hidden), d * hidden

    def states(self, index: int, d: int, hidden: int) -> list[str]:
        names = []
        for state in "hc" if self.cell == "LSTM" else "h":
            if self.pick(0, 1):
                self.inputs[f"{state}_in{index}"] = (d, self.batch, hidden)
                names.append(f"{state}_in{index}")
            else:
                names.append("")
        return names

    def merged(self, index: int, d: int, hidden: int) -> str:
        self.constants.append(numpy_helper.from_array(np.array([0, 0, d * hidden], np.int64), f"shape{index}"))
        self.nodes.append(helper.make_node("Transpose", [f"y{index}"], [f"t{index}"], perm=[0, 2, 1, 3]))
        self.nodes.append(helper.make_node("Reshape", [f"t{index}", f"shape{index}"], [f"z{index}"]))
        return f"z{index}"

    def save(self, path: Path) -> Path:
        x, width = "x", self.num_inputs
        for index in range(self.pick(1, 1, 2)):
            x, width = self.layer(index, x, width)
        values = [
            helper.make_tensor_value_info(name, TensorProto.INT32 if name == "lengths" else TensorProto.FLOAT, shape)
            for name, shape in self.inputs.items()
        ]
        outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in self.outputs]
        graph = helper.make_graph(self.nodes, "graph", values, outputs, self.constants)
        opset = helper.make_opsetid("", self.pick(14, 15, 17, 18, 20, 22))
        model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
        onnx.save(onnx.shape_inference.infer_shapes(model), path)
        return path

    def feed(self, num_steps: int = 0) -> dict[str, np.ndarray]:
        num_steps = num_steps or self.num_steps
        arrays = {}
        for name, shape in self.inputs.items():
            if name == "lengths":
                arrays[name] = self.rng.integers(1, num_steps + 1, shape).astype(np.int32)
            else:
                sizes = [num_steps if dim == "length" else int(dim) for dim in shape]
                arrays[name] = self.rng.standard_normal(sizes).astype(np.float32)
        return arrays
