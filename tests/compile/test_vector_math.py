"""Functions in vectors against numpy in double precision, and graphs of them against ONNX Runtime."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tvm
from onnx import parser
from tvm import te, tirx

from lab.compile.build import compile_onnx
from lab.compile.kernels.vector_math import FUNCTIONS
from lab.compile.passes.vector_math import vector_math
from lab.compile.targets import resolve_target

LANES, COUNT = 16, 1 << 18
NAMES = sorted(name.removeprefix("tirx.") for name in FUNCTIONS)
SPECIAL = np.array([0, np.inf, -np.inf, np.nan, -1, 1, 200, -200], np.float32)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


erf = np.vectorize(math.erf, otypes=[np.float64])
REFERENCES = {"exp": np.exp, "log": np.log, "tanh": np.tanh, "sigmoid": sigmoid, "erf": erf}


def kernel(name: str, size: int, dtype: str = "float32") -> Any:
    """A function of an array whose length is a multiple of 16, in vectors, written out."""
    x = te.placeholder((size,), name="x", dtype=dtype)
    y = te.compute((size,), lambda i: getattr(tirx, name)(x[i]), name="y")
    schedule = tvm.s_tir.Schedule(te.create_prim_func([x, y]))
    (loop,) = schedule.get_loops(schedule.get_sblock("y"))
    schedule.vectorize(schedule.split(loop, [None, LANES])[1])
    return vector_math(schedule.mod["main"])


def evaluate(name: str, values: np.ndarray) -> np.ndarray:
    built = tvm.compile(kernel(name, len(values), str(values.dtype)), target=resolve_target("x86").to_tvm())
    out = tvm.runtime.empty(values.shape, str(values.dtype))
    built["main"](tvm.runtime.tensor(values), out)
    return np.asarray(out.numpy())


@pytest.mark.parametrize(
    ("name", "low", "high", "units"),
    [("exp", -86.6, 88.7, 2), ("tanh", -10, 10, 5), ("sigmoid", -80, 80, 4), ("erf", -5, 5, 7)],
)
def test_units_in_the_last_place(name: str, low: float, high: float, units: float) -> None:
    values = np.linspace(low, high, COUNT).astype(np.float32)
    assert units_off(evaluate(name, values), REFERENCES[name](values.astype(np.float64))) < units


def test_log() -> None:
    values = np.concatenate([np.geomspace(2e-38, 3e38, COUNT), np.linspace(0.5, 2, COUNT)]).astype(np.float32)
    assert units_off(evaluate("log", values), np.log(values.astype(np.float64))) < 1.5


def units_off(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, in units of the expected float32's last place."""
    return float(np.max(np.abs(found - expected) / np.spacing(np.abs(expected).astype(np.float32))))


@pytest.mark.parametrize("name", NAMES)
def test_results_beyond_the_range_are_numpys(name: str) -> None:
    values = np.resize(SPECIAL, 4 * LANES)
    with np.errstate(all="ignore"):
        expected = REFERENCES[name](values)
    np.testing.assert_allclose(evaluate(name, values), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_doubles_are_left_to_tvm(name: str) -> None:
    values = np.linspace(0.1, 3, LANES)
    np.testing.assert_allclose(evaluate(name, values), REFERENCES[name](values), rtol=1e-13)


def test_no_call_of_libm_is_left() -> None:
    for name in NAMES:
        source = kernel(name, 4 * LANES).script()
        assert f"T.{name}(" not in source
        assert "T.vectorized" in source


def test_what_a_branch_guards_is_not_read_before_it() -> None:
    x = te.placeholder((2 * LANES,), name="x")
    y = te.compute(
        (4 * LANES,), lambda i: tirx.if_then_else(i < 2 * LANES, tirx.exp(x[i]), tirx.const(0, "float32")), name="y"
    )
    assert "T.exp(x[" in vector_math(te.create_prim_func([x, y])).script()


# Functions of functions, results used more than once, reductions between them; TVM's own analyses take exponential time
# for the deep one where variables are written out without care.
GRAPHS: dict[str, str] = {
    "shared": "{ s = Sigmoid (x) a = Mul (x, s) b = Mul (s, s) y = Add (a, b) }",
    "mish": "{ s = Softplus (x) t = Tanh (s) y = Mul (x, t) }",
    "deep": """{ a = Exp (x) b = Tanh (a) c = Sigmoid (b) d = Erf (c) e = Log (c)
               f = Mul (d, e) g = Mul (f, b) y = Add (g, c) }""",
    "elu": "{ a = Elu (x) b = Selu (a) y = Softplus (b) }",
    "concat": "{ a = Exp (x) b = Relu (x) c = Concat <axis = 0> (a, b) d = Elu (c) y = Mul (d, d) }",
    "softmax": "{ a = Softmax <axis = -1> (x) b = Sigmoid (a) y = LogSoftmax <axis = -1> (b) }",
    "gelu": "{ a = Gelu (x) b = Mul (a, a) y = HardSigmoid (b) }",
    "product": "{ t = Transpose (x) p = MatMul (x, t) s = Sigmoid (p) y = MatMul (s, x) }",
}


@pytest.mark.parametrize("target", ["x86", "x86:haswell"])
@pytest.mark.parametrize("shape", [(5, 37), (3, 64)])
@pytest.mark.parametrize("graph", sorted(GRAPHS))
def test_graphs_agree_with_onnxruntime(  # type: ignore[no-untyped-def]
    graph: str, shape: tuple[int, int], target: str, tmp_path: Path, run_compiled, run_onnx
) -> None:
    if not resolve_target(target).runnable_here()[0]:
        pytest.skip(f"{target} does not run here")
    size = ",".join(map(str, shape))
    path = tmp_path / "m.onnx"
    onnx.save(
        parser.parse_model(
            f'<ir_version: 8, opset_import: ["": 20]> g (float[{size}] x) => (float[{size}] y) {GRAPHS[graph]}'
        ),
        path,
    )
    compiled = compile_onnx(path, resolve_target(target), progress=lambda message: None)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    np.testing.assert_allclose(run_compiled(compiled, x)[0], run_onnx(path, {"x": x})[0], rtol=1e-5, atol=1e-6)
