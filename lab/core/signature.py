"""Signature: names, dtypes and symbolic shapes of a model's inputs and outputs.

One Signature drives export, compilation, runner checks, example inputs and the null runner.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from lab.core.errors import DataError

Dim = int | str
DTYPES = (
    "bool",
    *(f"{kind}{bits}" for kind in ("uint", "int") for bits in (8, 16, 32, 64)),
    "float16",
    "float32",
    "float64",
)
"""What a tensor may hold, in NumPy's names."""


@cache
def _dtype(name: str) -> np.dtype[Any]:
    """Parsing a name takes longer than all other checks together."""
    return np.dtype(name)


@dataclass(frozen=True)
class TensorSpec:
    """One named tensor; a dimension is a number, or a name when it varies ("batch")."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]

    def resolve(self, dims: Mapping[str, int]) -> tuple[int, ...]:
        """The shape with every symbolic dimension replaced by its value in `dims`."""
        return tuple(dims[dim] if isinstance(dim, str) else dim for dim in self.shape)

    def check(self, array: np.ndarray, dims: dict[str, int]) -> None:
        """Check one array; symbolic dimensions are bound in `dims` and must agree between tensors.

        Raises:
            DataError: dtype, rank or a dimension differs.
        """
        if array.dtype != _dtype(self.dtype):
            raise self._misfit("dtype", array)
        if array.shape == self.shape:  # nothing symbolic; a served model checks every request
            return
        if array.ndim != len(self.shape):
            raise self._misfit("number of dimensions", array)
        for actual, dim in zip(array.shape, self.shape, strict=True):
            wanted = dims.setdefault(dim, actual) if isinstance(dim, str) else dim
            if actual != wanted:
                raise self._misfit("shape", array)

    def _misfit(self, what: str, array: np.ndarray) -> DataError:
        """Built only when needed: a program checks its tensors at every step."""
        return DataError(
            f"tensor '{self.name}' has the wrong {what}",
            got=f"{array.dtype}{list(array.shape)}",
            expected=f"{self.dtype}{list(self.shape)}",
        )

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TensorSpec:
        """Raises KeyError, TypeError, ValueError when it is no tensor."""
        spec = cls(name=str(data["name"]), dtype=str(data["dtype"]), shape=tuple(data["shape"]))
        good = all(isinstance(dim, str) or (type(dim) is int and dim >= 0) for dim in spec.shape)
        if not good or spec.dtype not in DTYPES:
            raise ValueError(f"no tensor: '{spec.name}' {spec.dtype}{list(spec.shape)}"[:200])
        return spec


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a model, in call order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def check_inputs(self, arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
        """Check named inputs and return the values of the symbolic dimensions.

        Raises:
            DataError: a name is missing or unknown, or an array does not fit its spec.
        """
        return _check("input", self.inputs, arrays)

    def check_outputs(self, arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
        """Check named outputs; see `check_inputs`."""
        return _check("output", self.outputs, arrays)

    def example_inputs(self, dims: Mapping[str, int] | None = None, seed: int = 0) -> dict[str, np.ndarray]:
        """Random inputs that fit: standard normal for floats, small non-negative integers otherwise."""
        rng = np.random.default_rng(seed)
        values = dict.fromkeys(self.symbols(), 1) | dict(dims or {})
        arrays: dict[str, np.ndarray] = {}
        for spec in self.inputs:
            shape = spec.resolve(values)
            is_float = np.issubdtype(np.dtype(spec.dtype), np.floating)
            raw = rng.standard_normal(shape) if is_float else rng.integers(0, 2, shape)
            arrays[spec.name] = np.asarray(raw).astype(spec.dtype)
        return arrays

    def symbols(self) -> tuple[str, ...]:
        """Names of the symbolic dimensions, in order of first appearance."""
        dims = [dim for spec in (*self.inputs, *self.outputs) for dim in spec.shape if isinstance(dim, str)]
        return tuple(dict.fromkeys(dims))

    def to_dict(self) -> dict[str, Any]:
        return {"inputs": [s.to_dict() for s in self.inputs], "outputs": [s.to_dict() for s in self.outputs]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Signature:
        return cls(
            inputs=tuple(TensorSpec.from_dict(item) for item in data["inputs"]),
            outputs=tuple(TensorSpec.from_dict(item) for item in data["outputs"]),
        )


def _check(side: str, specs: tuple[TensorSpec, ...], arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    dims: dict[str, int] = {}
    try:
        for spec in specs:
            spec.check(arrays[spec.name], dims)
    except KeyError:
        raise _misnamed(side, specs, arrays) from None
    if len(arrays) != len(specs):
        raise _misnamed(side, specs, arrays)
    return dims


def _misnamed(side: str, specs: tuple[TensorSpec, ...], arrays: Mapping[str, np.ndarray]) -> DataError:
    return DataError(
        f"{side} names do not match the signature", got=sorted(arrays), expected=[spec.name for spec in specs]
    )
