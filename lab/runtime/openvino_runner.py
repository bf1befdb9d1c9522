"""OpenVINO behind the Runner protocol: a peer in the bench."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lab.core.errors import ArtifactError, MissingToolError
from lab.core.host import num_cores
from lab.core.signature import Signature, TensorSpec


class OpenVinoRunner:
    """An ONNX file in OpenVINO on the CPU: latency hint, float32 arithmetic.

    Raises:
        ArtifactError: the file is missing or OpenVINO refuses it.
        MissingToolError: OpenVINO is not installed.
    """

    name = "openvino"

    def __init__(self, path: Path | str, *, signature: Signature | None = None, num_threads: int | None = None) -> None:
        self.num_threads = num_threads or num_cores()
        self._model = _compile(Path(path), self.num_threads)
        self.signature = signature or _signature(self._model)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once. Raises DataError when the inputs do not fit the signature."""
        self.signature.check_inputs(inputs)
        results = self._model({name: np.asarray(array, order="C") for name, array in inputs.items()})
        return {spec.name: np.array(results[spec.name]) for spec in self.signature.outputs}

    def close(self) -> None:
        """Release the model; calling again does nothing."""
        self._model = None


def _compile(path: Path, num_threads: int) -> Any:
    try:
        import openvino
    except ImportError as error:
        hint = "make setup, or pip install -c constraints.txt '.[bench]'"
        raise MissingToolError("OpenVINO is not installed", got=str(error), hint=hint) from error
    if not path.is_file():
        raise ArtifactError("the ONNX file is missing", got=path)
    # Without the precision hint OpenVINO computes in bfloat16 where the CPU offers it: faster, and not the same model.
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": num_threads}
    core = openvino.Core()
    try:
        return core.compile_model(core.read_model(_without_functions(path)), "CPU", options)
    except RuntimeError as error:
        raise ArtifactError(f"OpenVINO refuses {path.name}", got=str(error)[:300]) from error


def _without_functions(path: Path) -> str | bytes:
    """The file, or its bytes with the functions it defines inlined: OpenVINO does not look into functions."""
    try:
        import onnx.inliner
    except ImportError:
        return str(path)
    try:
        model = onnx.load(path)
    except Exception:  # noqa: BLE001  onnx raises protobuf's and built-in types; OpenVINO says what is wrong
        return str(path)
    return bytes(onnx.inliner.inline_local_functions(model).SerializeToString()) if model.functions else str(path)


def _signature(model: Any) -> Signature:
    return Signature(tuple(map(_spec, model.inputs)), tuple(map(_spec, model.outputs)))


def _spec(port: Any) -> TensorSpec:
    name = port.get_any_name()
    dims = [
        "batch" if dim.is_dynamic and axis == 0 else f"{name}_{axis}" if dim.is_dynamic else dim.get_length()
        for axis, dim in enumerate(port.get_partial_shape())
    ]
    return TensorSpec(name, str(np.dtype(port.get_element_type().to_dtype())), tuple(dims))
