"""Sigmoid and tanh as rational functions: they run in vectors on every CPU, where TVM would call libm lane by lane."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm.tirx.script.builder as T

# tanh(x) = x p(x^2) / q(x^2) on [-LIMIT, LIMIT], beyond which float32 rounds it to 1; error below 3e-7.
# Source: Eigen, Core/MathFunctionsImpl.h, ptanh_float; ONNX Runtime's MlasComputeTanh has the same coefficients.
LIMIT = 7.99881172180175781
NUMERATOR = (
    -2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08, 1.48572235717979e-05,
    6.37261928875436e-04, 4.89352455891786e-03,
)  # fmt: skip
DENOMINATOR = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)


def tanh(x: Any) -> Any:
    """tanh of a float32 expression; binds what it uses twice, so it emits into the function under construction."""
    clipped = T.bind(T.max(T.min(x, T.float32(LIMIT)), T.float32(-LIMIT)))
    square = T.bind(clipped * clipped)
    return clipped * _polynomial(NUMERATOR, square) / _polynomial(DENOMINATOR, square)


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x)) by tanh; see there."""
    return tanh(x * T.float32(0.5)) * T.float32(0.5) + T.float32(0.5)


def relu(x: Any) -> Any:
    return T.max(x, T.float32(0))


def _polynomial(coefficients: tuple[float, ...], x: Any) -> Any:
    total = T.float32(coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * x + T.float32(coefficient)
    return total


BY_NAME: dict[str, Callable[[Any], Any]] = {"Tanh": tanh, "Sigmoid": sigmoid, "Relu": relu}
