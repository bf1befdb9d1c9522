"""exp, log, tanh, sigmoid and erf of float32 as polynomials and rational functions, so that they run in vectors.

CPUs have no such instructions: for a vector, TVM emits one call of libm per lane. How far each is from float64 is
measured, and held, by tests/compile/test_vector_math.py. Beyond float32's range, and for NaN, results are libm's, but
exp gives 0 where it would be below 2^-125, and log takes what is below 2^-126 for it.

Every function takes an expression and `bind`, which gives a value that is used more than once a variable. Expressions
with variables inside (`tirx.Let`) would do without, but TVM's analyses of nested ones take exponential time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx

# exp(x) = 2^n exp(r), |r| <= ln(2)/2, exp(r) = 1 + r + r^2 p(r). Source: Cephes, expf.
LOG2_E = 1.44269504088896341
LN2 = (0.693359375, -2.12194440e-4)  # in two parts: n times the first is exact
EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
EXP_LIMITS = (-87.3, 89.5)  # so that n fits the exponent

# log(x) = n ln(2) + log(1 + r), 1 + r in [sqrt(1/2), sqrt(2)), log(1 + r) = r - r^2/2 + r^3 p(r). Source: Cephes, logf.
LOG = (
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
    2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
)  # fmt: skip
SQRT_HALF = 0.707106781186547524
MIN_NORMAL = 1.17549435e-38

# tanh(x) = x p(x^2) / q(x^2); beyond the limit float32 rounds it to 1. Source: Eigen, ptanh_float; ONNX Runtime's too.
TANH_LIMIT = 7.99881172180175781
TANH = (
    (-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08, 1.48572235717979e-05,
     6.37261928875436e-04, 4.89352455891786e-03),
    (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03),
)  # fmt: skip

# erf(x) = x p(x^2) / q(x^2); beyond the limit 1. Source: Eigen, the erf of its SpecialFunctions.
ERF_LIMIT = 4.0
ERF = (
    (-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05, -7.34990630326855e-04,
     -2.95459980854025e-03, -1.60960333262415e-02),
    (-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03, -1.42647390514189e-02),
)  # fmt: skip

Expr = Any
Bind = Callable[[Expr], Expr]


def exp(x: Expr, bind: Bind) -> Expr:
    x = _clipped(x, *EXP_LIMITS, bind)
    n = bind(tirx.floor(x * _f(LOG2_E) + _f(0.5)))
    r = bind(x - n * _f(LN2[0]) - n * _f(LN2[1]))
    # 2^(n-1), twice: n goes to 128, whose power is not in float32's range.
    half_power = tirx.reinterpret("float32", (n.astype("int32") + _i(126)) << _i(23))
    return (_polynomial(EXP, r) * (r * r) + r + _f(1)) * half_power * _f(2)


def log(x: Expr, bind: Bind) -> Expr:
    x = bind(x)
    normal = bind(tirx.max(x, _f(MIN_NORMAL)))
    bits = tirx.reinterpret("int32", normal)
    half_to_one = bind(tirx.reinterpret("float32", (bits & _i(0x007FFFFF)) | _i(0x3F000000)))
    exponent = ((bits >> _i(23)) - _i(126)).astype("float32")
    is_small = half_to_one < _f(SQRT_HALF)
    n = bind(tirx.Select(is_small, exponent - _f(1), exponent))
    r = bind(tirx.Select(is_small, half_to_one + half_to_one, half_to_one) - _f(1))
    low = n * _f(LN2[1]) + _polynomial(LOG, r) * (r * (r * r)) - _f(0.5) * (r * r)
    positive = tirx.Select(x.equal(_f(math.inf)), x, r + low + n * _f(LN2[0]))
    return tirx.Select(x > _f(0), positive, tirx.Select(x.equal(_f(0)), _f(-math.inf), _f(math.nan)))


def tanh(x: Expr, bind: Bind) -> Expr:
    return _odd_rational(x, TANH_LIMIT, *TANH, bind)


def sigmoid(x: Expr, bind: Bind) -> Expr:
    return _f(1) / (_f(1) + exp(_f(0) - x, bind))


def sigmoid_by_tanh(x: Expr, bind: Bind) -> Expr:
    """As ONNX Runtime has it: faster, with an error that is small beside 1, not beside results near 0."""
    return tanh(x * _f(0.5), bind) * _f(0.5) + _f(0.5)


def erf(x: Expr, bind: Bind) -> Expr:
    return _odd_rational(x, ERF_LIMIT, *ERF, bind)


def _odd_rational(x: Expr, limit: float, over: Sequence[float], under: Sequence[float], bind: Bind) -> Expr:
    x = _clipped(x, -limit, limit, bind)
    square = bind(x * x)
    return x * _polynomial(over, square) / _polynomial(under, square)


def _clipped(x: Expr, low: float, high: float, bind: Bind) -> Expr:
    """By comparisons, which keep NaN; max and min would not."""
    x = bind(x)
    return bind(tirx.Select(x < _f(low), _f(low), tirx.Select(x > _f(high), _f(high), x)))


def _polynomial(coefficients: Sequence[float], x: Expr) -> Expr:
    """Horner's scheme, the highest power's coefficient first."""
    total: Expr = _f(coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * x + _f(coefficient)
    return total


def _f(value: float) -> Expr:
    return tirx.const(value, "float32")


def _i(value: int) -> Expr:
    return tirx.const(value, "int32")


FUNCTIONS: dict[str, Callable[[Expr, Bind], Expr]] = {
    "tirx.exp": exp, "tirx.log": log, "tirx.tanh": tanh, "tirx.sigmoid": sigmoid, "tirx.erf": erf,
}  # fmt: skip
