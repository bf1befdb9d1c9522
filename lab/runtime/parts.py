"""A graph in parts: the compiled ones and ONNX Runtime's, one after the other, values handed on by name."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lab.artifacts.manifest import Part
from lab.core.errors import MissingToolError

Run = Callable[[Mapping[str, np.ndarray]], Sequence[np.ndarray]]


class PartSequence:
    """Runs the parts of one entry. `seconds` adds up what each part took over all calls.

    Args:
        parts: each with what runs it: a mapping that holds its inputs in, its outputs in order out.
        outputs: the model's, in the signature's order.
    """

    def __init__(self, parts: Sequence[tuple[Part, Run]], outputs: Sequence[str]) -> None:
        self.parts = tuple(part for part, _ in parts)
        self.seconds = [0.0] * len(parts)
        self._runs = [run for _, run in parts]
        self._outputs = tuple(outputs)

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        values = self.values(inputs)
        return [values[name] for name in self._outputs]

    def values(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Everything that passes between the parts in one inference, inputs and outputs included."""
        values = dict(inputs)
        for index, (part, run) in enumerate(zip(self.parts, self._runs, strict=True)):
            start = time.perf_counter()
            values |= zip(part.outputs, run(values), strict=True)
            self.seconds[index] += time.perf_counter() - start
        return values


def in_onnxruntime(folder: Path, part: Part, num_threads: int) -> Run:
    """The session of one part.

    Raises:
        MissingToolError: ONNX Runtime is not installed; the bundle needs it for this part.
        ArtifactError: ONNX Runtime refuses the part.
    """
    from lab.runtime.onnx_runner import PROVIDERS, open_session

    try:
        session: Any = open_session(folder / part.file, num_threads, PROVIDERS["cpu"], spinning=False)
    except MissingToolError as error:
        raise MissingToolError(
            f"the bundle runs {', '.join(part.operators)} in ONNX Runtime (lab compile --partial)", got=error.got,
            hint="pip install onnxruntime, or compile without --partial",
        ) from error  # fmt: skip
    names = list(part.outputs)

    def run(values: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        results: Sequence[np.ndarray] = session.run(names, {name: values[name] for name in part.inputs})
        return results

    return run
