"""A model on another server behind the Runner protocol: the Open Inference Protocol v2 with binary tensors.

Triton, KServe's runtimes and this lab's own endpoints speak it (kserve/open-inference-protocol, inference_rest.md;
triton-inference-server/server, docs/protocol/extension_binary_data.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from lab.core.errors import LabError, UnsupportedError
from lab.core.signature import Dim, Signature, TensorSpec
from lab.runtime.http_client import Client, RemoteFailedError, Reply

DATATYPES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "int8": "INT8",
    "int16": "INT16", "int32": "INT32", "int64": "INT64", "float16": "FP16", "float32": "FP32", "float64": "FP64",
}  # fmt: skip
_DTYPES = {name: dtype for dtype, name in DATATYPES.items()}
_LENGTH = "Inference-Header-Content-Length"


class RemoteRunner:
    """Not thread-safe: one per thread, each with a connection of its own.

    Args:
        client: whose base is the model's address, http://host:port/v2/models/NAME (or .../versions/VERSION).

    Raises:
        UnreachableError, RemoteTimeoutError, RemoteFailedError, DataError: its metadata cannot be had.
        UnsupportedError: a tensor is of texts.
    """

    name = "remote"

    def __init__(self, client: Client) -> None:
        self.client = client
        try:
            self.signature = _signature(_object(client, client.request("GET", "")))
        except LabError:
            client.close()
            raise

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Named arrays in, named arrays out, checked on both sides. Raises as `Client.request`."""
        self.signature.check_inputs(inputs)
        head, blobs = _request(self.signature, inputs)
        headers = {"Content-Type": "application/octet-stream", _LENGTH: str(len(head))}
        reply = self.client.request("POST", "/infer", b"".join([head, *blobs]), headers)
        return _outputs(self.client, self.signature, reply)

    def close(self) -> None:
        """Close the connection; calling again does nothing."""
        self.client.close()


def _request(signature: Signature, inputs: Mapping[str, np.ndarray]) -> tuple[bytes, list[bytes]]:
    entries, blobs = [], []
    for spec in signature.inputs:
        array = np.asarray(inputs[spec.name], order="C")
        blobs.append(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        entries.append({"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": list(array.shape),
                        "parameters": {"binary_data_size": len(blobs[-1])}})  # fmt: skip
    return json.dumps({"inputs": entries, "parameters": {"binary_data_output": True}}).encode(), blobs


def _outputs(client: Client, signature: Signature, reply: Reply) -> dict[str, np.ndarray]:
    """Raises RemoteFailedError on anything but the tensors of the signature."""
    length = reply.headers.get(_LENGTH.lower(), str(len(reply.body)))
    try:
        head, binary = reply.body[: int(length)], memoryview(reply.body)[int(length) :]
        found: dict[str, np.ndarray] = {}
        for entry in json.loads(head)["outputs"]:
            dtype, size = np.dtype(_DTYPES[entry["datatype"]]), entry.get("parameters", {}).get("binary_data_size")
            if size is None:
                array = np.asarray(entry["data"], dtype)
            else:
                array, binary = np.frombuffer(binary[:size], dtype.newbyteorder("<")), binary[size:]
            found[entry["name"]] = np.array(array.reshape(entry["shape"]), dtype, order="C")
        chosen = {spec.name: found[spec.name] for spec in signature.outputs}
        signature.check_outputs(chosen)
    except Exception as error:  # whatever another server sends is its failure
        raise RemoteFailedError(f"the answer of {client.base} is none", got=repr(error)[:200]) from error
    return chosen


def _object(client: Client, reply: Reply) -> dict[str, Any]:
    try:
        found = json.loads(reply.body)
    except (ValueError, RecursionError) as error:
        raise RemoteFailedError(f"{client.base} is no model's address", got=str(error)[:100]) from error
    if not isinstance(found, dict) or not isinstance(found.get("inputs"), list) or not found.get("outputs"):
        raise RemoteFailedError(f"{client.base} told no inputs and outputs", got=str(found)[:100])
    return found


def _signature(metadata: Mapping[str, Any]) -> Signature:
    """A dimension of -1 varies: the first one is the batch."""

    def spec(entry: Mapping[str, Any]) -> TensorSpec:
        if entry.get("datatype") not in _DTYPES:
            raise UnsupportedError(f"tensor '{entry.get('name')}' cannot be sent", got=entry.get("datatype"))
        shape: list[Dim] = [
            int(dim) if int(dim) >= 0 else "batch" if place == 0 else f"{entry['name']}_{place}"
            for place, dim in enumerate(entry["shape"])
        ]
        return TensorSpec(str(entry["name"]), _DTYPES[entry["datatype"]], tuple(shape))

    try:
        return Signature(tuple(map(spec, metadata["inputs"])), tuple(map(spec, metadata["outputs"])))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RemoteFailedError("the model's metadata cannot be read", got=repr(error)[:200]) from error
