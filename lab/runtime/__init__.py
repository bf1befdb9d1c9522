"""Ways to run a model behind one protocol (`lab.core.interfaces.Runner`); each engine is imported only when opened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lab.core.tables import LazyTable

if TYPE_CHECKING:
    from lab.runtime.tvm_runner import TvmRunner

RUNNERS = LazyTable(
    "runner",
    {
        "tvm": "lab.runtime.tvm_runner:TvmRunner",
        "onnxruntime": "lab.runtime.onnx_runner:OnnxRunner",
        "eager": "lab.runtime.eager_runner:EagerRunner",
        "openvino": "lab.runtime.openvino_runner:OpenVinoRunner",
        "remote": "lab.runtime.remote_runner:RemoteRunner",
        "null": "lab.runtime.null_runner:NullRunner",
    },
)


def open_bundle(
    path: Path | str,
    num_threads: int | None = None,
    verify: bool = True,
    function: str = "main",
    level: str | None = None,
) -> TvmRunner:
    """Open a compiled bundle; needs numpy and the TVM runtime, neither torch nor the TVM compiler.

    Args:
        num_threads: threads of the pool; None takes every core this process may use.
        verify: compare every file with the checksum in the manifest.
        level: of a fat bundle, the `mcpu` of the level to run; None picks the best that this CPU can run.
        function: of a program (several functions and a loop); `lab.runtime.models.open_model` opens it whole.

    Raises:
        ArtifactError: the bundle has no such function.
        IntegrityError: a file is missing or has other bytes than the manifest records.
        IncompatibleError: built for another CPU; found before any code of the bundle is loaded.
        MissingToolError: the TVM runtime, or the GPU it needs, is missing.
    """
    from lab.runtime.tvm_runner import TvmRunner

    return TvmRunner(Path(path), num_threads=num_threads, verify=verify, function=function, level=level)
