"""Quantised graphs: the same values before and after each rewrite, in integers where the CPU has the instruction."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from lab.compile.build import Compiled, compile_onnx
from lab.compile.kernels.integer_conv import padded_weights
from lab.compile.link import write_library
from lab.compile.passes.integer_graph import integer_graph
from lab.compile.passes.pack_weights import pack
from lab.compile.schedules.kernel import Packing
from lab.compile.targets import resolve_target
from lab.core.errors import ConfigError, UnsupportedError
from lab.export.quantize import is_quantized, quantize_onnx
from tests.compile.graphs import Graph

VNNI = "x86:znver4"
needs_vnni = pytest.mark.skipif(not resolve_target(VNNI).runnable_here()[0], reason="this CPU lacks AVX-512 VNNI")


def evaluate(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """The graph as written: no optimiser turns quantised pairs into kernels with roundings of their own."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return np.asarray(session.run(None, {"x": x})[0])


class Quantized(Graph):
    """A graph with quantised tensors: `q.stored(x, 0.1, 3)` quantises and dequantises a value."""

    def stored(self, x: str, scale: float, zero: int, dtype: type = np.uint8) -> str:
        parameters = [self.constant(np.array(scale, np.float32)), self.constant(np.array(zero, dtype))]
        return self.op("DequantizeLinear", self.op("QuantizeLinear", x, *parameters), *parameters)

    def stored_weights(self, *shape: int, axis: int = 0, zero: int = 0, dtype: type = np.int8) -> str:
        limits = np.iinfo(dtype)
        integers = self.rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)
        scale = self.rng.uniform(0.001, 0.003, shape[axis]).astype(np.float32)
        names = [self.constant(integers), self.constant(scale), self.constant(np.full(shape[axis], zero, dtype))]
        return self.op("DequantizeLinear", *names, axis=axis)


def one_convolution(
    channels: int, outputs: int, kernel: int, size: tuple[int, int] = (9, 12), *, zero: int = 7,
    activations: type = np.uint8, **attributes: object,
) -> onnx.ModelProto:  # fmt: skip
    g = Quantized([1, channels, *size], seed=channels * 100 + outputs)
    x = g.stored("x", 0.02, zero, activations)
    y = g.op("Conv", x, g.stored_weights(outputs, channels, kernel, kernel), g.weights(outputs), **attributes)
    return g.model(y)


def image(model: onnx.ModelProto, seed: int = 0) -> np.ndarray:
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def compiled(model: onnx.ModelProto, folder: Path, target: str = VNNI) -> Compiled:
    path = folder / "model.onnx"
    onnx.save(model, path)
    return compile_onnx(path, resolve_target(target), progress=lambda message: None)


CONVOLUTIONS: dict[str, Callable[[], onnx.ModelProto]] = {
    "three_channels": lambda: one_convolution(3, 16, 3, pads=[1, 1, 1, 1]),
    "seven_by_seven_stride_two": lambda: one_convolution(3, 32, 7, (20, 22), pads=[3, 3, 3, 3], strides=[2, 2]),
    "odd_outputs": lambda: one_convolution(8, 21, 3, pads=[1, 0, 1, 1]),
    "fewer_outputs_than_lanes": lambda: one_convolution(8, 5, 1),
    "dilated": lambda: one_convolution(16, 16, 3, pads=[2, 2, 2, 2], dilations=[2, 2]),
    "wide": lambda: one_convolution(64, 96, 3, pads=[1, 1, 1, 1]),
    "signed_activations": lambda: one_convolution(6, 16, 3, zero=-5, activations=np.int8, pads=[1, 1, 1, 1]),
    "no_zero_point": lambda: one_convolution(12, 16, 3, zero=0, pads=[1, 1, 1, 1]),
    "pointwise_stride_two": lambda: one_convolution(16, 32, 1, strides=[2, 2]),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_reads_integers(name: str) -> None:
    model = CONVOLUTIONS[name]()
    x = image(model)
    before = evaluate(model, x)
    rewritten = integer_graph(model)
    product = next(node for node in rewritten.graph.node if node.op_type == "Conv")
    weights = next(t for t in rewritten.graph.initializer if t.name == product.input[1])
    array = numpy_helper.to_array(weights)
    np.testing.assert_array_equal(array, np.rint(array))
    np.testing.assert_allclose(evaluate(rewritten, x), before, atol=2e-5 * np.abs(before).max())


@needs_vnni
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_in_dot_products_equals_onnx_runtime(name: str, tmp_path: Path, run_compiled) -> None:  # type: ignore[no-untyped-def]
    model = CONVOLUTIONS[name]()
    x = image(model)
    expected = evaluate(model, x)
    made = compiled(model, tmp_path)
    assert [row.schedule for row in made.report.rows if "integer" in row.kernel] == ["conv2d_integer"]
    (actual,) = run_compiled(made, x)
    np.testing.assert_allclose(actual, expected, atol=2e-5 * np.abs(expected).max())


def network() -> onnx.ModelProto:
    """A residual block, pooling and a classifier, all of it quantised, as ONNX Runtime's quantiser writes it."""
    g = Quantized([1, 3, 16, 16])
    x = g.op("Relu", g.op("Conv", g.stored("x", 0.03, 128), g.stored_weights(32, 3, 3, 3), pads=[1, 1, 1, 1]))
    x = g.stored(x, 0.02, 0)
    x = g.stored(g.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), 0.02, 0)
    y = g.op("Conv", x, g.stored_weights(32, 32, 3, 3), g.weights(32), pads=[1, 1, 1, 1])
    y = g.op("Relu", g.op("Add", g.stored(y, 0.05, 120), x))
    y = g.op("GlobalAveragePool", g.stored(y, 0.05, 0))
    y = g.stored(g.op("Flatten", y), 0.01, 0)
    return g.model(g.op("Gemm", y, g.stored_weights(10, 32), g.weights(10), transB=1))


def test_a_network_stores_eight_bits_between_its_operators() -> None:
    model = network()
    x = image(model)
    before = evaluate(model, x)
    rewritten = integer_graph(model)
    np.testing.assert_allclose(evaluate(rewritten, x), before, atol=0.02 * np.abs(before).max())
    pool = next(node for node in rewritten.graph.node if node.op_type == "MaxPool")
    inferred = onnx.shape_inference.infer_shapes(rewritten)
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    assert types[pool.input[0]] == types[pool.output[0]] == onnx.TensorProto.UINT8
    assert not [node for node in rewritten.graph.node if node.op_type == "QuantizeLinear"]


@needs_vnni
def test_a_network_in_integers_agrees_with_onnx_runtime(tmp_path: Path, run_compiled) -> None:  # type: ignore[no-untyped-def]
    model = network()
    made = compiled(model, tmp_path)
    kernels = {row.kernel: row.schedule for row in made.report.rows}
    assert [name for name, schedule in kernels.items() if schedule == "naive"] == []
    assert sum(row.num_calls for row in made.report.rows if row.schedule == "conv2d_integer") == 3
    for seed in range(5):
        x = image(model, seed)
        expected = evaluate(model, x)
        (actual,) = run_compiled(made, x)
        np.testing.assert_allclose(actual, expected, atol=0.02 * np.abs(expected).max())


def test_a_cpu_without_the_instruction_computes_the_same_in_floats(tmp_path: Path, run_compiled) -> None:  # type: ignore[no-untyped-def]
    model = network()
    x = image(model)
    expected = evaluate(model, x)
    made = compiled(model, tmp_path, "x86:x86-64-v2")
    assert not [row for row in made.report.rows if row.schedule == "conv2d_integer"]
    (actual,) = run_compiled(made, x)
    np.testing.assert_allclose(actual, expected, atol=0.02 * np.abs(expected).max())


def test_weights_that_need_nine_bits_stay_as_they_are() -> None:
    g = Quantized([1, 4, 6, 6])
    weights = g.stored_weights(8, 4, 3, 3, zero=3, dtype=np.uint8)  # 255 - 3 does not fit eight bits with sign
    model = g.model(g.op("Conv", g.stored("x", 0.02, 9), weights))
    operators = [node.op_type for node in model.graph.node]
    assert [node.op_type for node in integer_graph(model).graph.node] == operators


def test_a_quantised_value_that_is_an_output_is_left_alone() -> None:
    g = Quantized([1, 4, 6, 6])
    parameters = [g.constant(np.array(0.1, np.float32)), g.constant(np.array(3, np.uint8))]
    stored = g.op("QuantizeLinear", "x", *parameters)
    y = g.op("Conv", g.op("DequantizeLinear", stored, *parameters), g.stored_weights(8, 4, 3, 3))
    model = g.model(y)
    model.graph.output.append(helper.make_tensor_value_info(stored, onnx.TensorProto.UINT8, None))
    assert "QuantizeLinear" in [node.op_type for node in integer_graph(model).graph.node]


def test_padded_and_packed_weights() -> None:
    weights = np.arange(3 * 5, dtype=np.float32).reshape(1, 1, 3, 5) - 7
    stored = padded_weights(weights, 16)
    assert stored.shape == (1, 1, 4, 16)
    assert stored.dtype == np.int8
    packed = pack(stored, Packing(axis=3, tile=16, group=4))
    assert packed.shape == (1, 1, 1, 1, 16, 4)
    for c in range(3):
        for k in range(5):
            assert packed[0, 0, 0, 0, k, c] == weights[0, 0, c, k]


def test_the_quantiser_writes_a_graph_that_compiles_in_integers(tmp_path: Path) -> None:
    g = Graph([1, 3, 12, 12])
    x = g.op("Relu", g.conv("x", 3, 16, pads=[1, 1, 1, 1]))
    path = g.save(tmp_path / "float.onnx", g.conv(x, 16, 8))
    assert not is_quantized(path)
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.standard_normal((1, 3, 12, 12)).astype(np.float32)} for _ in range(4)]
    output = tmp_path / "int8.onnx"
    quantize_onnx(path, output, feeds, method="minmax")
    assert is_quantized(output)
    model = onnx.load(output)
    expected = evaluate(onnx.load(path), feeds[0]["x"])
    np.testing.assert_allclose(evaluate(model, feeds[0]["x"]), expected, atol=0.05 * np.abs(expected).max())
    made = compile_onnx(output, resolve_target(VNNI), progress=lambda message: None)
    assert sum(row.schedule == "conv2d_integer" for row in made.report.rows) == 2


def test_nothing_to_quantise_is_said(tmp_path: Path) -> None:
    g = Graph([1, 3])
    path = g.save(tmp_path / "relu.onnx", g.op("Relu", "x"))
    with pytest.raises(UnsupportedError, match="no convolution and no product"):
        quantize_onnx(path, tmp_path / "out.onnx", [], method="minmax")


def test_int8_is_refused_where_no_instruction_multiplies_bytes() -> None:
    with pytest.raises(ConfigError, match="no kernels of precision int8") as caught:
        resolve_target("x86:haswell", "int8")
    assert "znver4" in str(caught.value.hint)
    assert resolve_target(VNNI, "int8").name == "x86:znver4+int8"


def test_the_library_is_smaller_than_the_floats(tmp_path: Path) -> None:
    g = Quantized([1, 256, 4, 4])
    model = g.model(g.op("Conv", g.stored("x", 0.02, 9), g.stored_weights(256, 256, 3, 3)))
    (entry,) = write_library(compiled(model, tmp_path), tmp_path)
    assert (tmp_path / entry.library).stat().st_size < 256 * 256 * 9 * 2


def test_what_a_branch_reads_keeps_its_name() -> None:
    g = Quantized([1, 4, 6, 6])
    x = g.stored("x", 0.02, 9)
    y = g.op("Conv", x, g.stored_weights(4, 4, 1, 1))
    branches = [
        helper.make_graph(
            [helper.make_node("Identity", [x], [name])], name, [], [helper.make_empty_tensor_value_info(name)]
        )
        for name in ("then", "else")
    ]
    condition = g.constant(np.array(True))
    both = g.op("Add", y, g.op("If", condition, then_branch=branches[0], else_branch=branches[1]))
    model = g.model(both)
    array = image(model)
    before = evaluate(model, array)
    np.testing.assert_allclose(evaluate(integer_graph(model), array), before, atol=1e-4)
