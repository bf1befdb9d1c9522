"""The Open Inference Protocol, version 2, over REST, with Triton's binary tensors.

Sources: kserve/open-inference-protocol, specification/protocol/inference_rest.md; triton-inference-server/server,
docs/protocol/extension_binary_data.md. A body with binary tensors is JSON, whose length is in the header
Inference-Header-Content-Length, then the tensors' bytes in the JSON's order. The model's name is the endpoint's, its
version a variant's name (which pins it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from lab.core.errors import DataError
from lab.core.interfaces import Arrays
from lab.core.signature import Signature, TensorSpec
from lab.runtime.remote_runner import DATATYPES
from lab.serve.engine.model import ServedModel
from lab.serve.engine.work import Answer, Parsed
from lab.serve.protocols.http import JSON, parse_object
from lab.serve.protocols.tensors import check_feed, check_shape, from_bytes, from_json

HEADER_LENGTH = "inference-header-content-length"
BINARY = "application/octet-stream"
MAX_TENSORS = 64


def split(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    """The JSON part and the binary part. Raises DataError when the length is no such number."""
    if header_length is None:
        return body, memoryview(b"")
    if not header_length.isdecimal() or int(header_length) > len(body):
        raise DataError(
            "Inference-Header-Content-Length is not within the body", got=header_length[:20], expected=len(body)
        )
    return body[: int(header_length)], memoryview(body)[int(header_length) :]


def pinned_variant(body: bytes, header_length: str | None) -> str | None:
    """`parameters.variant` of a request; the JSON is read twice only where that word is in it at all."""
    document, _ = split(body, header_length)
    if b'"variant"' not in document:
        return None
    parameters = parse_object(document).get("parameters")
    variant = parameters.get("variant") if isinstance(parameters, dict) else None
    return variant if isinstance(variant, str) else None


@dataclass
class InferWork:
    """One `infer` request; `name` and `version` are told back."""

    body: bytes
    header_length: str | None
    name: str
    version: str
    keep_outputs: bool = False
    _document: dict[str, Any] = field(default_factory=dict)

    def decode(self, model: ServedModel) -> Parsed:
        """Raises DataError."""
        document, binary = split(self.body, self.header_length)
        self._document = parse_object(document)
        feed = _read_inputs(model.signature, self._document, binary)
        finite = model.config.non_finite == "refuse"
        num_inputs = check_feed(model.signature, feed, finite=finite)
        _requested(self._document, model.signature)
        return Parsed(num_inputs, _key(feed), feed)

    def encode(self, model: ServedModel, parsed: Parsed, predictions: Sequence[Any], outputs: Arrays) -> Answer:
        """The outputs that were asked for, all without a list, as JSON or as bytes."""
        described, blobs = [], []
        for name, as_bytes in _requested(self._document, model.signature):
            array = np.ascontiguousarray(outputs[name])
            entry: dict[str, Any] = {
                "name": name, "datatype": DATATYPES[str(array.dtype)], "shape": list(array.shape),
            }  # fmt: skip
            if as_bytes:
                blobs.append(array.tobytes())
                entry["parameters"] = {"binary_data_size": len(blobs[-1])}
            else:
                entry["data"] = array.ravel()
            described.append(entry)
        head: dict[str, Any] = {"model_name": self.name, "model_version": self.version, "outputs": described}
        if isinstance(self._document.get("id"), str):
            head["id"] = self._document["id"]
        text = orjson.dumps(head, option=orjson.OPT_SERIALIZE_NUMPY)
        kept = outputs if self.keep_outputs else None
        if not blobs:
            return Answer(text, JSON, (), kept)
        return Answer(b"".join([text, *blobs]), BINARY, (("Inference-Header-Content-Length", str(len(text))),), kept)


def _key(feed: Mapping[str, np.ndarray]) -> tuple[Any, ...]:
    """Requests with the same shapes beside the batch may run together."""
    return tuple((name, array.shape[1:]) for name, array in sorted(feed.items()))


def _read_inputs(signature: Signature, document: Mapping[str, Any], binary: memoryview) -> Arrays:
    entries = document.get("inputs")
    if not isinstance(entries, list) or not 0 < len(entries) <= MAX_TENSORS:
        raise DataError("the request has no list of inputs", expected="inputs: [{name, shape, datatype, data}]")
    specs = {spec.name: spec for spec in signature.inputs}
    feed: Arrays = {}
    for entry in entries:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or name not in specs or name in feed:
            got = entry if name is None else name
            raise DataError("an input is unknown or given twice", got=repr(got)[:60], expected=", ".join(specs))
        spec = specs[name]
        feed[spec.name], binary = _read_input(spec, entry, binary)
    if len(binary):
        raise DataError("there are bytes after the last tensor", got=len(binary))
    return feed


def _read_input(spec: TensorSpec, entry: Mapping[str, Any], binary: memoryview) -> tuple[np.ndarray, memoryview]:
    """The array, and the bytes that are left."""
    shape = check_shape(spec.name, entry.get("shape"))
    if entry.get("datatype") != DATATYPES[spec.dtype]:
        raise DataError(
            f"tensor '{spec.name}' has the wrong datatype", got=repr(entry.get("datatype"))[:30],
            expected=DATATYPES[spec.dtype],
        )  # fmt: skip
    size = _parameters(entry).get("binary_data_size")
    if size is None:
        return from_json(spec, entry.get("data"), shape), binary
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(binary):
        raise DataError(
            f"tensor '{spec.name}' has no such bytes", got=repr(size)[:30], expected=f"{len(binary)} at most"
        )
    return from_bytes(spec, shape, binary[:size]), binary[size:]


def _parameters(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    found = entry.get("parameters")
    return found if isinstance(found, dict) else {}


def _requested(document: Mapping[str, Any], signature: Signature) -> list[tuple[str, bool]]:
    """(name, whether as bytes) of the outputs wanted. Raises DataError on one that is unknown."""
    names = [spec.name for spec in signature.outputs]
    all_binary = bool(_parameters(document).get("binary_data_output", False))
    entries = document.get("outputs")
    if not entries:
        return [(name, all_binary) for name in names]
    if not isinstance(entries, list) or len(entries) > MAX_TENSORS:
        raise DataError("outputs is no list", expected="outputs: [{name}]")
    wanted = []
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("name") not in names:
            raise DataError("an output is unknown", got=repr(entry)[:60], expected=", ".join(names))
        wanted.append((entry["name"], bool(_parameters(entry).get("binary_data", all_binary))))
    return wanted


def server_metadata(version: str) -> dict[str, Any]:
    """GET /v2."""
    return {"name": "lab", "version": version, "extensions": ["binary_tensor_data"]}


def model_metadata(name: str, versions: Sequence[str], platform: str, signature: Signature) -> dict[str, Any]:
    """GET /v2/models/NAME: a dimension that varies is -1."""
    return {
        "name": name, "versions": list(versions), "platform": platform,
        "inputs": [_tensor(spec) for spec in signature.inputs],
        "outputs": [_tensor(spec) for spec in signature.outputs],
    }  # fmt: skip


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    shape = [dim if isinstance(dim, int) else -1 for dim in spec.shape]
    return {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": shape}
