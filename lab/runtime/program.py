"""Programs: a model of several functions and a loop over them, such as an encoder and one decoding step.

Each function is exported, compiled and run by itself, so that no loop is unrolled and no length is frozen; the loop is
the task's (`generate` of its deploy half) and the same for every engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from lab.core.interfaces import Arrays, Call, Loop, Runner
from lab.core.signature import Signature

Observer = Callable[[str, Mapping[str, np.ndarray], Arrays], None]
"""Is told each call of a function: its name, inputs and outputs."""


class ProgramRunner:
    """Several functions of one engine behind the Runner protocol. Not thread-safe: one per thread."""

    def __init__(self, signature: Signature, functions: Mapping[str, Runner], loop: Loop) -> None:
        self.signature = signature
        self.functions = dict(functions)
        self.name = next(iter(self.functions.values())).name
        self._loop = loop

    def run(self, inputs: Mapping[str, np.ndarray], observe: Observer | None = None) -> Arrays:
        """Run the loop once.

        Args:
            observe: is told every call of a function.

        Raises:
            DataError: inputs or outputs that do not fit their signature.
        """
        self.signature.check_inputs(inputs)
        calls = {name: _observed(name, runner, observe) for name, runner in self.functions.items()}
        outputs = self._loop(calls, inputs)
        self.signature.check_outputs(outputs)
        return {spec.name: outputs[spec.name] for spec in self.signature.outputs}

    def close(self) -> None:
        """Release every function; calling again does nothing."""
        for runner in self.functions.values():
            runner.close()


def _observed(name: str, runner: Runner, observe: Observer | None) -> Call:
    if observe is None:
        return runner.run

    def call(inputs: Mapping[str, np.ndarray]) -> Arrays:
        outputs = runner.run(inputs)
        observe(name, inputs, outputs)
        return outputs

    return call
