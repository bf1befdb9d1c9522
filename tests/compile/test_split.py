"""Division of a graph between the compiler and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import parser

from lab.compile.split import UNKNOWN_SIZE, PartGraph, split

HEAD = '<ir_version: 8, opset_import: ["": 18]> g (float[2,4,4] x) => '
GRAPHS: dict[str, tuple[str, list[str]]] = {
    "in the middle": ("(float[2] y) { a = Relu (x) f = Det (a) y = Neg (f) }", ["tvm", "onnxruntime", "tvm"]),
    "at the start": ("(float[2] y) { f = Det (x) y = Neg (f) }", ["onnxruntime", "tvm"]),
    "at the end": ("(float[2] y) { a = Relu (x) y = Det (a) }", ["tvm", "onnxruntime"]),
    "branches that cross": (
        """(float[2,4,4] y, float[2] z) { a = Relu (x) f = Det (a) g = Det (x) b = Neg (x) s = Sum (f, g)
        t = Unsqueeze (s, axes) m = Mul (b, t) y = Add (m, a) z = Identity (f) }""",
        ["tvm", "onnxruntime", "tvm"],
    ),
    "two in a row": (
        "(float[2] y) <int64[1] axes = {1}> { a = Relu (x) f = Det (a) b = Mul (f, f) h = Unsqueeze (b, axes) "
        "i = Unsqueeze (h, axes) y = Det (i) }",
        ["tvm", "onnxruntime", "tvm", "onnxruntime"],
    ),
    "nothing foreign": ("(float[2,4,4] y) { a = Relu (x) y = Neg (a) }", ["tvm"]),
}


def model_of(text: str) -> onnx.ModelProto:
    if "axes" in text and "int64" not in text:
        text = text.replace("{ a", "<int64[2] axes = {1, 2}> { a", 1)
    return parser.parse_model(HEAD + text)


def determinants(model: onnx.ModelProto) -> dict[str, str]:
    return {node.output[0]: "no converter" for node in model.graph.node if node.op_type == "Det"}


def run(model: onnx.ModelProto, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = [value.name for value in model.graph.output]
    session = onnxruntime.InferenceSession(model.SerializeToString())
    inputs = {value.name: feed[value.name] for value in model.graph.input}
    return dict(zip(names, session.run(names, inputs), strict=True))


def run_in_turn(parts: Sequence[PartGraph], feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    values = dict(feed)
    for part in parts:
        values |= run(part.model, values)  # fails where a part needs what a later one gives
    return values


@pytest.mark.parametrize("name", GRAPHS)
def test_parts_in_turn_compute_the_graph(name: str) -> None:
    text, engines = GRAPHS[name]
    model = model_of(text)
    parts = split(model, determinants(model))
    assert [part.engine for part in parts] == engines
    feed = {"x": np.random.default_rng(0).standard_normal((2, 4, 4)).astype(np.float32)}
    found, expected = run_in_turn(parts, feed), run(model, feed)
    for output, array in expected.items():
        np.testing.assert_allclose(found[output], array, rtol=1e-6)
    num_nodes = sum(sum(part.operators.values()) for part in parts)
    assert num_nodes == len(model.graph.node), "every node is in one part"


def test_what_follows_from_unknown_sizes_is_not_compiled() -> None:
    model = model_of("(float[2,4,4] y, float[n] z) { y = Relu (x) i = NonZero (x) f = Cast <to = 1> (i) z = Neg (f) }")
    parts = split(model, {"i": "no converter"})
    assert [part.engine for part in parts] == ["tvm", "onnxruntime"]
    assert parts[1].reasons["Neg (z)"] == UNKNOWN_SIZE


def test_what_a_branch_takes_from_around_it_is_an_input_of_its_part() -> None:
    model = model_of(
        """(float[2,4,4] y) { a = Relu (x) s = ReduceMax <keepdims = 0> (x) c = Cast <to = 9> (s)
        y = If (c) <then_branch = t () => (float[2,4,4] p) { p = Neg (a) },
                    else_branch = e () => (float[2,4,4] q) { q = Identity (a) }> }"""
    )
    parts = split(model, {"y": "its course is not known"})
    assert [part.engine for part in parts] == ["tvm", "onnxruntime"]
    assert set(parts[1].inputs) == {"a", "c"}


def test_the_same_graph_gives_the_same_bytes() -> None:
    def once() -> list[bytes]:
        model = model_of(GRAPHS["branches that cross"][0])
        return [part.model.SerializeToString(deterministic=True) for part in split(model, determinants(model))]

    assert once() == once()
