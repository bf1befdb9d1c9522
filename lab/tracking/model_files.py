"""A model of the lab as an MLflow model: its own files, untouched, with MLflow's description beside them.

Two flavors. `onnx` is MLflow's own, so `mlflow.onnx.load_model` and `mlflow models serve` work. `lab` marks weights
(safetensors) or a bundle with their manifest, which the lab's own runners open; nothing in it is pickled.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml

from lab.core.errors import UnsupportedError
from lab.core.progress import say
from lab.core.signature import Signature, TensorSpec

MODEL_FOLDER = "model"
KEY_TAG = "lab.key"


def send_model(client: Any, run_id: str, folder: Path, fields: Mapping[str, Any]) -> str:
    """Upload the files and the description, and make a version in the registry; returns the version.

    Args:
        fields: the journal's "model" operation: name, files, signature, flavor, metadata, tags, key.
    """
    known = _existing_version(client, run_id, fields)
    if known:
        return known
    for name in fields["files"]:
        _upload(client, run_id, folder / name, name)
    with tempfile.TemporaryDirectory() as scratch:
        for path in _describe(Path(scratch), run_id, fields):
            _upload(client, run_id, path, path.name)
    return _new_version(client, run_id, fields)


def _upload(client: Any, run_id: str, path: Path, name: str) -> None:
    client.log_artifact(run_id, str(path), str(PurePosixPath(MODEL_FOLDER, name).parent))


def _describe(folder: Path, run_id: str, fields: Mapping[str, Any]) -> list[Path]:
    """Write MLmodel, and for the onnx flavor the environment files that MLflow's loaders read."""
    from mlflow.models import Model

    model = Model(artifact_path=MODEL_FOLDER, run_id=run_id, metadata=dict(fields["metadata"]))
    model.signature = model_signature(Signature.from_dict(fields["signature"]))
    if fields["flavor"] == "onnx":
        paths = _onnx_flavor(model, folder, fields)
    elif fields["flavor"] == "lab":
        model.add_flavor("lab", files=list(fields["files"]), manifest="manifest.json")
        paths = []
    else:
        raise UnsupportedError("unknown model flavor", got=fields["flavor"], expected="lab, onnx")
    model.save(str(folder / "MLmodel"))
    return [*paths, folder / "MLmodel"]


def _onnx_flavor(model: Any, folder: Path, fields: Mapping[str, Any]) -> list[Path]:
    from mlflow.utils.environment import _mlflow_conda_env, _PythonEnv

    data = next(name for name in fields["files"] if name.endswith(".onnx"))
    versions = fields["versions"]
    requirements = [f"{name}=={versions[name]}" for name in ("onnx", "onnxruntime") if name in versions]
    # What mlflow.pyfunc.add_to_model writes; importing that module costs a second and warns about its own types.
    model.add_flavor(
        "python_function",
        loader_module="mlflow.onnx",
        python_version=platform.python_version(),
        data=data,
        env={"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
    )
    model.add_flavor(
        "onnx",
        onnx_version=versions.get("onnx", ""),
        data=data,
        providers=["CUDAExecutionProvider", "CPUExecutionProvider"],
        onnx_session_options=None,
        code=None,
    )
    conda = _mlflow_conda_env(additional_pip_deps=requirements)
    (folder / "conda.yaml").write_text(yaml.safe_dump(conda, sort_keys=False), encoding="utf-8")
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in requirements), encoding="utf-8")
    _PythonEnv.current().to_yaml(str(folder / "python_env.yaml"))
    return [folder / "conda.yaml", folder / "requirements.txt", folder / "python_env.yaml"]


def model_signature(signature: Signature) -> Any:
    """The lab's Signature as MLflow's; a symbolic dimension becomes -1, as MLflow has no names for them."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema
    from mlflow.types import TensorSpec as MlflowTensorSpec

    def schema(specs: tuple[TensorSpec, ...]) -> Any:
        shapes = [tuple(-1 if isinstance(dim, str) else dim for dim in spec.shape) for spec in specs]
        return Schema(
            [MlflowTensorSpec(np.dtype(s.dtype), shape, s.name) for s, shape in zip(specs, shapes, strict=True)]
        )

    return ModelSignature(inputs=schema(signature.inputs), outputs=schema(signature.outputs))


def _existing_version(client: Any, run_id: str, fields: Mapping[str, Any]) -> str:
    """The version an interrupted upload made before it was acknowledged."""
    for version in client.search_model_versions(f"name = '{fields['name']}' and run_id = '{run_id}'"):
        if version.tags.get(KEY_TAG) == fields["key"]:
            return str(version.version)
    return ""


def _new_version(client: Any, run_id: str, fields: Mapping[str, Any]) -> str:
    from mlflow.exceptions import MlflowException

    name = fields["name"]
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"{client.get_run(run_id).info.artifact_uri}/{MODEL_FOLDER}"
    tags = {KEY_TAG: fields["key"], **fields["tags"]}
    version = client.create_model_version(name, source, run_id=run_id, tags=tags, await_creation_for=0)
    say(f"registered the model {name}, version {version.version}")
    return str(version.version)
