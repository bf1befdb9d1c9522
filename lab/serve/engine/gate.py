"""What a model must pass before it gets traffic: it runs, warms up, and gives its golden sample's answers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lab.artifacts.golden import read_golden
from lab.core.compare import difference
from lab.core.errors import ParityError
from lab.serve.engine.model import Part, ServedModel
from lab.tasks import DEPLOY

WARM_UP_CALLS = 3
_LENGTH = 8
"""Of dimensions that vary and are not the batch, in the warm-up's inputs."""


@dataclass(frozen=True)
class Passed:
    """Milliseconds of the last warm-up call, and whether there was a golden sample to compare with."""

    latency_ms: float
    golden: bool


def pass_gate(model: ServedModel) -> Passed:
    """Warm a model up and compare its golden sample; each step's own, where it is a pipeline.

    Raises:
        ParityError: outputs that differ from the golden ones, or are not finite.
        LabError: whatever running raises.
    """
    latency_ms = _warm_up(model)
    if model.config.engine != "auto":
        return Passed(latency_ms, False)
    compared = [_agrees(part) for part in model.parts]
    return Passed(latency_ms, all(compared))


def _agrees(part: Part) -> bool:
    """False where there is no golden sample to compare with. Raises ParityError."""
    golden = read_golden(part.folder)
    if golden is None:
        return False
    outputs: Mapping[str, np.ndarray] = part.runner.run(golden.inputs)
    if part.manifest.task is not None:
        _, outputs = DEPLOY[part.manifest.task].aligned(golden.outputs, outputs)
    for name, expected in golden.outputs.items():
        found = difference(expected, outputs[name])
        scale = max(1.0, float(np.abs(expected).max(initial=0)))
        if found.max_abs > golden.tolerance * scale:
            raise ParityError(
                f"output '{name}' is not what the model gave when it was built", got=found,
                expected=f"within {golden.tolerance * scale:.3g}", hint="build the artifact again on this kind of CPU",
            )  # fmt: skip
    return True


def _warm_up(model: ServedModel) -> float:
    """Milliseconds of the last call. Programs are warmed up by their functions, whose inputs need not make sense."""
    runners = [model.runner] if not model.manifest.functions else list(getattr(model.runner, "functions", {}).values())
    took = 0.0
    for _ in range(WARM_UP_CALLS):
        began = time.perf_counter()
        for runner in runners:
            dims = dict.fromkeys(runner.signature.symbols(), _LENGTH) | {"batch": 1}
            runner.run(runner.signature.example_inputs(_image_dims(dims)))
        took = (time.perf_counter() - began) * 1e3
    return took


def _image_dims(dims: dict[str, int]) -> dict[str, int]:
    """Images of any size are given a size that every stride divides."""
    return {name: 64 if name in ("height", "width") else size for name, size in dims.items()}
