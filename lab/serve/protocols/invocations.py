"""Bodies of SageMaker's and MLflow's `/invocations`: images, arrays, JSON, JSON Lines, and each task's own formats.

image/jpeg, image/png, image/webp, application/x-image    one encoded image
application/x-npy                                         the model's input, or one image uint8 [H, W, C]
application/json    {"instances": [...]} one sample each; {"inputs": array or {name: array}} a whole batch
application/jsonlines                                     a sample per line
sequence tasks                                            what their `responses` module reads
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
import orjson

from lab.core.errors import DataError
from lab.core.interfaces import Arrays
from lab.core.signature import Signature
from lab.data.decode import image_size
from lab.data.preprocess import decode_image
from lab.serve.engine.model import ServedModel, accepted
from lab.serve.engine.work import Answer, Parsed
from lab.serve.protocols.errors import MediaTypeError, TooLargeError
from lab.serve.protocols.http import JSON, parse_json, parse_object
from lab.serve.protocols.tensors import NPY, check_feed, from_json, read_npy, write_npy

LINES = "application/jsonlines"
LINES_TYPES = (LINES, "application/x-jsonlines", "application/jsonl")
IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp", "application/x-image")
_SIGNS = ((b"\xff\xd8\xff", 0), (b"\x89PNG\r\n\x1a\n", 0), (b"WEBP", 8))
MAX_LINES = 10_000


@cache
def codec_of(task: str | None) -> ModuleType | None:
    """The module of a task that reads requests by itself; None for images and for models of no task."""
    name = f"lab.tasks.{task}.responses"
    if task is None or find_spec(name) is None:
        return None
    module = import_module(name)
    return module if hasattr(module, "read_request") else None


@dataclass
class InvocationWork:
    """One request to `/invocations`."""

    body: bytes
    content_type: str
    accept: str
    max_pixels: int
    keep_outputs: bool = False
    forwarded: Mapping[str, str] = field(default_factory=dict)
    """Headers for a model on another server."""

    def decode(self, model: ServedModel) -> Parsed:
        """Raises DataError, MediaTypeError, TooLargeError."""
        kind = self.content_type.partition(";")[0].strip().lower()
        codec = codec_of(model.manifest.task)
        if codec is not None and kind != NPY:
            request = codec.read_request(self.body, self.content_type or JSON)
            return _of_task(request, model.deploy)
        if kind in IMAGE_TYPES or kind.startswith("image/"):
            return self._image(model, kind)
        if kind == NPY:
            return self._array(model)
        if kind == JSON:
            return _tensors(model, _feed(model.signature, parse_object(self.body)))
        if kind in LINES_TYPES:
            return _tensors(model, _instances(model.signature, _lines(self.body)))
        expected = ", ".join((*IMAGE_TYPES, NPY, JSON, LINES))
        raise MediaTypeError("the content type is not understood", got=kind[:60] or "none", expected=expected)

    def encode(self, model: ServedModel, parsed: Parsed, predictions: Sequence[Any], outputs: Arrays) -> Answer:
        """In the first form of Accept that there is."""
        kept = outputs if self.keep_outputs else None
        if parsed.feed is not None:
            return self._encode_tensors(outputs, kept)
        deploy, codec = model.deploy, codec_of(model.manifest.task)
        assert deploy is not None
        accept = choose(self._default_accept(deploy.ACCEPTS) if codec else self.accept, deploy.ACCEPTS)
        if codec is not None:
            ordered = _in_order(predictions, parsed.options.get("_refused", {}))
            return Answer(codec.write_response(ordered, accept, _public(parsed.options)), accept, (), kept)
        return Answer(deploy.respond(predictions[0], accept), accept, (), kept)

    def _default_accept(self, offered: Sequence[str]) -> str:
        """Sequence tasks answer in the request's own form unless another is asked for (DAR-O7, S2S-I9)."""
        kind = self.content_type.partition(";")[0].strip().lower()
        kind = LINES if kind in LINES_TYPES else kind
        return kind if self.accept.strip() in ("", "*/*") and kind in offered else self.accept

    def _image(self, model: ServedModel, kind: str) -> Parsed:
        if model.deploy is None or "PNG" not in "".join(model.deploy.EXTENSIONS).upper():
            raise MediaTypeError("the model takes no images", got=kind[:60])
        if not any(self.body[at : at + len(sign)] == sign for sign, at in _SIGNS):
            raise DataError("the body is no image", expected="JPEG, PNG or WebP")
        height, width = _size(self.body)
        if height * width > self.max_pixels:
            raise TooLargeError(
                "the image is too large", got=f"{height} x {width} pixels", expected=f"{self.max_pixels} at most"
            )
        return Parsed(1, "image", inputs=[decode_image(self.body, "the body")])

    def _array(self, model: ServedModel) -> Parsed:
        array = read_npy(self.body)
        if model.deploy is not None and array.dtype == np.uint8 and array.ndim == 3:
            if array.shape[0] * array.shape[1] > self.max_pixels:
                raise TooLargeError("the image is too large", got=list(array.shape))
            return Parsed(1, "image", inputs=[array])
        if len(model.signature.inputs) != 1:
            names = [spec.name for spec in model.signature.inputs]
            raise DataError("the model has several inputs and one array came", expected=", ".join(names))
        return _tensors(model, {model.signature.inputs[0].name: array})

    def _encode_tensors(self, outputs: Arrays, kept: Arrays | None) -> Answer:
        accept = choose(self.accept, (JSON, LINES, NPY))
        if accept == NPY and len(outputs) == 1:
            return Answer(write_npy(next(iter(outputs.values()))), NPY, (), kept)
        rows = _rows(outputs)
        if accept == LINES:
            lines = b"".join(_dumps({"prediction": row}) + b"\n" for row in rows)
            return Answer(lines, LINES, (), kept)
        return Answer(_dumps({"predictions": rows}), JSON, (), kept)


def _size(body: bytes) -> tuple[int, int]:
    """(height, width) from the header. PNG's is read here: Pillow calls a huge one broken. Raises DataError."""
    if body[:8] == _SIGNS[1][0] and body[12:16] == b"IHDR" and len(body) >= 24:
        width, height = struct.unpack_from(">II", body, 16)
        return int(height), int(width)
    return image_size(body, "the body")


def choose(accept: str, offered: Sequence[str]) -> str:
    """The first of the client's types that is offered; the default when it takes anything.

    Raises:
        MediaTypeError: none is.
    """
    wanted = [";".join(part.strip() for part in one.split(";")) for one in accept.lower().split(",") if one.strip()]
    if not wanted:
        return offered[0]
    for one in wanted:
        bare = one.partition(";")[0]
        if one in offered or bare in offered:
            return one if one in offered else bare
        if bare in ("*/*", "application/*", "image/*"):
            return next(
                (kind for kind in offered if kind.startswith(bare.removesuffix("*").removesuffix("*/"))), offered[0]
            )
    raise MediaTypeError("no response of that content type", got=accept[:80], expected=", ".join(offered))


def _of_task(request: Any, deploy: Any) -> Parsed:
    """Inputs that could not be read keep their place in the answer."""
    refused = {place: item for place, item in enumerate(request.inputs) if isinstance(item, DataError)}
    inputs = [item for place, item in enumerate(request.inputs) if place not in refused]
    if refused and not inputs:
        raise next(iter(refused.values()))
    options = dict(request.options)
    # Options of the loop or of the postprocessing belong to one request, which then runs alone; those of the response
    # alone do not matter here.
    steering = accepted(deploy.generate, options) | accepted(deploy.postprocess, options)
    key = None if steering else "task"
    return Parsed(len(inputs), key, inputs=inputs, options=options | ({"_refused": refused} if refused else {}))


def _in_order(predictions: Sequence[Any], refused: Mapping[int, DataError]) -> list[Any]:
    left = iter(predictions)
    return [refused[n] if n in refused else next(left) for n in range(len(predictions) + len(refused))]


def _public(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if not name.startswith("_")}


def _feed(signature: Signature, document: Mapping[str, Any]) -> Arrays:
    """{"instances": [...]} or {"inputs": ...}, as TensorFlow Serving and MLflow have them. Raises DataError."""
    if "instances" in document:
        return _instances(signature, document["instances"])
    if "inputs" not in document:
        raise DataError("the request has neither instances nor inputs", got=sorted(map(str, document))[:5])
    given = document["inputs"]
    if not isinstance(given, dict):
        if len(signature.inputs) != 1:
            raise DataError("the model has several inputs", expected=", ".join(spec.name for spec in signature.inputs))
        return {signature.inputs[0].name: from_json(signature.inputs[0], given)}
    specs = {spec.name: spec for spec in signature.inputs}
    unknown = sorted(set(given) - set(specs))
    if unknown:
        raise DataError("an input is unknown", got=unknown[0][:60], expected=", ".join(specs))
    return {name: from_json(specs[name], values) for name, values in given.items()}


def _instances(signature: Signature, instances: Any) -> Arrays:
    if not isinstance(instances, list) or not instances:
        raise DataError("instances is no list of samples", expected="at least one")
    specs = signature.inputs
    if not isinstance(instances[0], dict):
        if len(specs) != 1:
            raise DataError("the model has several inputs", expected=", ".join(spec.name for spec in specs))
        return {specs[0].name: from_json(specs[0], instances)}
    if not all(isinstance(one, dict) and all(spec.name in one for spec in specs) for one in instances):
        raise DataError("an instance lacks an input", expected=", ".join(spec.name for spec in specs))
    return {spec.name: from_json(spec, [one[spec.name] for one in instances]) for spec in specs}


def _lines(body: bytes) -> list[Any]:
    lines = [line for line in body.split(b"\n") if line.strip()]
    if len(lines) > MAX_LINES:
        raise DataError("too many lines", got=len(lines), expected=f"{MAX_LINES} at most")
    return [parse_json(line, f"line {number}") for number, line in enumerate(lines, 1)]


def _tensors(model: ServedModel, feed: Arrays) -> Parsed:
    num_inputs = check_feed(model.signature, feed, finite=model.config.non_finite == "refuse")
    return Parsed(num_inputs, tuple((name, array.shape[1:]) for name, array in sorted(feed.items())), feed)


def _rows(outputs: Arrays) -> Any:
    """One output: its rows; several: an object per row."""
    if len(outputs) == 1:
        return np.ascontiguousarray(next(iter(outputs.values())))
    return [dict(zip(outputs, values, strict=True)) for values in zip(*outputs.values(), strict=True)]


def _dumps(data: Any) -> bytes:
    return orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY)
