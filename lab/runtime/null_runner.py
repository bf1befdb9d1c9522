"""The runner without a model: zeros of the right shapes, to measure everything around a model and to test servers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lab.core.signature import Signature


class NullRunner:
    """Checks its inputs like every other runner and answers zeros."""

    name = "null"

    def __init__(self, signature: Signature) -> None:
        self.signature = signature

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Zeros in the signature's shapes. Raises DataError when the inputs do not fit."""
        dims = dict.fromkeys(self.signature.symbols(), 1) | self.signature.check_inputs(inputs)
        return {spec.name: np.zeros(spec.resolve(dims), spec.dtype) for spec in self.signature.outputs}

    def close(self) -> None:
        """Nothing to release."""
