"""ONNX Runtime behind the Runner protocol: the reference of the parity ladder and a peer in the bench."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lab.core.errors import ArtifactError, MissingToolError
from lab.core.host import num_cores
from lab.core.signature import Signature, TensorSpec

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
DTYPES = {"float": "float32", "double": "float64", "float16": "float16", "bool": "bool"}


class OnnxRunner:
    """An ONNX file in ONNX Runtime.

    Args:
        signature: as exported; without it, the file's own names and shapes are used.
        num_threads: threads inside one operator; None takes every core this process may use.
        device: "cpu" or "cuda"; the device that is asked for is used, or an error says why not.

    Raises:
        ArtifactError: the file is missing or ONNX Runtime refuses it.
        MissingToolError: ONNX Runtime, or its CUDA provider, is not installed.
    """

    name = "onnxruntime"

    def __init__(
        self,
        path: Path | str,
        *,
        signature: Signature | None = None,
        num_threads: int | None = None,
        device: Literal["cpu", "cuda"] = "cpu",
    ) -> None:
        self.num_threads = num_threads or num_cores()
        self._session = open_session(Path(path), self.num_threads, PROVIDERS[device])
        self.signature = signature or _signature(self._session)
        self._names = [spec.name for spec in self.signature.outputs]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once. Raises DataError when the inputs do not fit the signature."""
        self.signature.check_inputs(inputs)
        return dict(zip(self._names, self._session.run(self._names, dict(inputs)), strict=True))

    def close(self) -> None:
        """Release the session; calling again does nothing."""
        self._session = None


def open_session(path: Path, num_threads: int, provider: str, *, spinning: bool = True) -> Any:
    """An `InferenceSession`; `spinning` lets idle threads wait on a core that other work of this process may need.

    Raises: as `OnnxRunner`.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingToolError(
            "running ONNX needs ONNX Runtime",
            got=str(error),
            hint="make setup, or pip install -c constraints.txt '.[export]'",
        ) from error
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise MissingToolError(
            f"this ONNX Runtime has no {provider}", got=", ".join(available), hint="pip install onnxruntime-gpu"
        )
    if not path.is_file():
        raise ArtifactError("the ONNX file is missing", got=path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:  # ONNX Runtime raises its own types, none with a common base but Exception
        raise ArtifactError(f"ONNX Runtime refuses {path.name}", got=str(error)[:300]) from error
    if provider not in session.get_providers():
        raise MissingToolError(f"{provider} is there but does not start", got=", ".join(session.get_providers()))
    return session


def _signature(session: Any) -> Signature:
    return Signature(tuple(map(_spec, session.get_inputs())), tuple(map(_spec, session.get_outputs())))


def _spec(value: Any) -> TensorSpec:
    kind = value.type.removeprefix("tensor(").removesuffix(")")
    dims = tuple(
        dim if isinstance(dim, int) else (dim or f"{value.name}_{axis}") for axis, dim in enumerate(value.shape)
    )
    return TensorSpec(value.name, DTYPES.get(kind, kind), dims)
