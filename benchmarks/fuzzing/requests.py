"""Bodies of inference requests, each through decoding, preprocessing, a model that answers zeros, and encoding.

Inputs are a head and a body: lines of "name: value", an empty line, the body. What the head may say is each target's.
"""

from __future__ import annotations

import io
import json
import struct
import tempfile
import time
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.fuzzing.limits import Target
from lab.artifacts.manifest import Manifest
from lab.core.signature import Signature, TensorSpec
from lab.data.preprocess import ImagePreprocessing
from lab.data.text.recordio import frame_numbers
from lab.serve.config import LimitsConfig, VariantConfig
from lab.serve.engine.batch import run_jobs
from lab.serve.engine.model import ServedModel
from lab.serve.engine.work import Answer, Job, Work
from lab.serve.protocols.invocations import InvocationWork
from lab.serve.protocols.oip import InferWork, pinned_variant
from lab.tasks.classification import deploy as classification
from lab.tasks.forecasting import deploy as forecasting
from lab.tasks.seq2seq import deploy as seq2seq

JSON, LINES, NPY, RECORDIO = (
    "application/json",
    "application/jsonlines",
    "application/x-npy",
    "application/x-recordio-protobuf",
)
SIDE, NUM_CLASSES = 8, 4
X = np.zeros((1, 3, SIDE, SIDE), np.float32)


def framed(body: bytes, **head: str) -> bytes:
    """A head and a body as one input; underscores in names stand for hyphens."""
    lines = [f"{name.replace('_', '-')}: {value}\n" for name, value in head.items()]
    return "".join(lines).encode("latin-1") + b"\n" + body


def unframed(data: bytes) -> tuple[dict[str, str], bytes]:
    """The head, its names in lower case, and the body."""
    head, separator, body = data.partition(b"\n\n")
    if not separator:
        head, body = (data[:-1], b"") if data.endswith(b"\n") else (b"", data)
        body = data[1:] if data.startswith(b"\n") else body
    pairs = (line.partition(b":") for line in head.split(b"\n"))
    return {name.decode("latin-1").strip().lower(): value.decode("latin-1").strip() for name, _, value in pairs}, body


def manifests() -> dict[str, Manifest]:
    """One model of each kind of request, none with a file of weights."""
    pixels = ImagePreprocessing((3, SIDE, SIDE), crop="none", mean=(0.0,) * 3, std=(1.0,) * 3)
    int64 = [TensorSpec(name, "int64", ("batch", 4)) for name in ("a", "b", "sum")]
    letters = {"kind": "char", "lowercase": False, "model": ""}
    words = ("<pad>", "<unk>", "<s>", "</s>", *"abcdefgh ")
    sources = seq2seq.Preprocessing(letters, letters, words, max_source_length=50, max_target_length=50)
    series: dict[str, Any] = {
        "frequency": "M", "context_length": 12, "prediction_length": 6, "lags": [1, 2, 12], "likelihood": "student-T",
        "default_scale": 1.0, "cardinality": [3], "num_static_real": 1, "num_dynamic": 1,
    }  # fmt: skip
    return {
        "images": Manifest(
            kind="onnx", name="images", signature=classification.signature((3, SIDE, SIDE), NUM_CLASSES),
            task="classification", labels=("a", "b", "c", "d"), preprocessing=pixels.to_dict(),
        ),
        "tensors": Manifest(kind="onnx", name="tensors", signature=Signature(tuple(int64[:2]), tuple(int64[2:]))),
        "seq2seq": Manifest(
            kind="onnx", name="seq2seq", signature=seq2seq.signature(), task="seq2seq", labels=words,
            preprocessing=sources.to_dict(),
        ),
        "forecasting": Manifest(
            kind="onnx", name="forecasting", signature=forecasting.signature(series), task="forecasting",
            preprocessing=series,
        ),
    }  # fmt: skip


@cache
def model(name: str) -> ServedModel:
    """Opened once per process."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    manifests()[name].save(folder)
    return ServedModel(folder, VariantConfig(name="v", model=str(folder), engine="zeros"))


def answered(name: str, work: Work) -> Answer:
    """What an executor thread does with a request. Raises whatever the request ended in."""
    now = time.perf_counter()
    job = Job(work, None, now, now + 3600)  # type: ignore[arg-type]  no one waits for it
    run_jobs(model(name), [job], lambda size: None)
    if isinstance(job.result, BaseException):
        raise job.result
    assert isinstance(job.result, Answer)
    assert isinstance(job.result.body, bytes)
    return job.result


def _invocation(name: str, data: bytes) -> Answer:
    head, body = unframed(data)
    kind, accept = head.get("content-type", ""), head.get("accept", "")
    return answered(name, InvocationWork(body, kind, accept, LimitsConfig().image_pixels, keep_outputs=False))


def _oip(data: bytes) -> Answer:
    head, body = unframed(data)
    length = head.get("inference-header-content-length")
    pinned_variant(body, length)
    return answered("images", InferWork(body, length, "shop", "one"))


def npy(array: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def picture(kind: str, **options: Any) -> bytes:
    """A small image with something in it."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    mode = options.pop("mode", None)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


def bomb_png(width: int, height: int) -> bytes:
    """Claims so many pixels and, being zeros, has them all in a few kilobytes where they are few enough."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(bytes(min(height * (1 + width // 8), 4_000_000)), 9)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _image_seeds() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    pictures = [
        *(("image/png", picture("PNG", mode=mode)) for mode in ("RGB", "P", "LA", "1")),
        ("image/jpeg", picture("JPEG")), ("image/jpeg", picture("JPEG", progressive=True, exif=exif.tobytes())),
        ("image/jpeg", picture("JPEG", mode="CMYK")), ("image/webp", picture("WEBP")),
        ("application/x-image", picture("WEBP", lossless=True)),
        ("image/png", bomb_png(100_000, 10_000)), ("image/png", bomb_png(5000, 4000)),
    ]  # fmt: skip
    return [framed(body, content_type=kind, accept=JSON) for kind, body in pictures]


def _tensor_seeds() -> list[bytes]:
    whole = {"inputs": {"a": [[1, 2, 3, 4]], "b": [[5, 6, 7, 8]]}}
    rows = [{"a": [1, 2, 3, 4], "b": [5, 6, 7, 8]}, {"a": [0, 0, 0, 0], "b": [-1, 2**62, 0, 1]}]
    lines = b"\n".join(json.dumps(row).encode() for row in rows)
    return [
        framed(json.dumps(whole).encode(), content_type=JSON, accept=JSON),
        framed(json.dumps({"instances": rows}).encode(), content_type=f"{JSON}; charset=utf-8", accept=NPY),
        framed(lines, content_type=LINES, accept=LINES), framed(b"", content_type="text/csv"),
        framed(npy(np.zeros((1, 4), np.int64)), content_type=NPY, accept="*/*;q=0.5, application/json"),
    ]  # fmt: skip


def _array_seeds() -> list[bytes]:
    arrays = [X, X.astype(">f4"), np.asfortranarray(np.repeat(X, 3, 0)), np.zeros((9, 7, 3), np.uint8)]
    bodies = [npy(array) for array in arrays]
    bodies.append(npy(np.asarray([{"a": 1}], dtype=object), allow_pickle=True))
    bodies.append(b"\x93NUMPY\x02\x00" + struct.pack("<I", 70) + bodies[0][10:80].ljust(70) + X.tobytes())
    instances = {"instances": X.tolist()}
    seeds = [framed(body, content_type=NPY, accept=NPY) for body in bodies]
    return [*seeds, framed(json.dumps(instances).encode(), content_type=JSON)]


def _oip_seeds() -> list[bytes]:
    entry = {"name": "image", "datatype": "FP32", "shape": [1, 3, SIDE, SIDE]}
    binary = {"inputs": [entry | {"parameters": {"binary_data_size": X.nbytes}}],
              "outputs": [{"name": "logits", "parameters": {"binary_data": True}}]}  # fmt: skip
    head = json.dumps(binary).encode()
    plain = {
        "id": "7",
        "parameters": {"variant": "one", "binary_data_output": True},
        "inputs": [entry | {"data": X.ravel().tolist()}],
    }
    nested = {"inputs": [entry | {"data": X.tolist()}], "outputs": [{"name": "logits"}]}
    return [
        framed(head + X.tobytes(), inference_header_content_length=str(len(head))),
        framed(json.dumps(plain).encode()), framed(json.dumps(nested).encode()),
    ]  # fmt: skip


def _seq2seq_seeds() -> list[bytes]:
    document = {"instances": [{"data": "a b c", "configuration": {"attention_matrix": "true"}}, {"data": "head"}]}
    lines = b'{"source": "abc"}\n{"source": "a bad cab"}\n'
    numbers = frame_numbers([4, 5, 6], []) + frame_numbers([7, 5, 3, 2, 1, 0], [4])
    return [
        framed(json.dumps(document).encode(), content_type=JSON, accept=JSON),
        framed(lines, content_type=LINES), framed(numbers, content_type=RECORDIO),
        framed(numbers, content_type=RECORDIO, accept=JSON),
    ]  # fmt: skip


def _forecasting_seeds() -> list[bytes]:
    one = {"start": "2020-01-01 00:00:00", "target": [1.0, None, "NaN", 4.5], "cat": [1], "feat_static_real": [0.5],
           "dynamic_feat": [[0.1] * 10]}  # fmt: skip
    whole = {"instances": [one, one | {"start": "2020-01", "item_id": "x"}],
             "configuration": {"num_samples": 10, "output_types": ["mean", "quantiles", "samples"],
                               "quantiles": ["0.1", "0.9"]}}  # fmt: skip
    lines = b"\n".join(json.dumps(one).encode() for _ in range(2))
    return [
        framed(json.dumps(whole).encode(), content_type=JSON, accept=JSON),
        framed(lines, content_type=LINES, accept=LINES),
    ]


_PNG = (
    b"IHDR",
    b"PLTE",
    b"tRNS",
    b"iCCP",
    b"zTXt",
    b"IDAT",
    b"IEND",
    b"acTL",
    b"fcTL",
    b"\xff\xd8\xff",
    b"Exif\0\0",
    b"VP8X",
    b"ICCP",
)
_NPY = (
    b"'descr'",
    b"'<f8'",
    b"'|O'",
    b"'<U9'",
    b"'<c8'",
    b"[('a','<f4')]",
    b"(-1,)",
    b"(1000000000000,)",
    b"'shape'",
    b"()",
)
_KINDS = (JSON.encode(), LINES.encode(), NPY.encode(), RECORDIO.encode(), b"image/png", b";", b", ", b"*/*", b"q=0.1")

TARGETS = (
    Target("images", "encoded images, as /invocations takes them", _image_seeds,
           lambda data: _invocation("images", data), words=_PNG),
    Target("arrays", ".npy bodies, tensors or one image", _array_seeds, lambda data: _invocation("images", data),
           words=_NPY),
    Target("tensors", "JSON and JSON Lines of tensors, Accept", _tensor_seeds,
           lambda data: _invocation("tensors", data), words=_KINDS),
    Target("oip", "Open Inference Protocol JSON and Triton's binary tensors", _oip_seeds, _oip,
           words=(b"FP32", b"INT64", b"BYTES", b"binary_data_size", b"shape", b"outputs")),
    Target("seq2seq", "texts in JSON, JSON Lines, RecordIO of protobuf", _seq2seq_seeds,
           lambda data: _invocation("seq2seq", data), words=_KINDS),
    Target("forecasting", "series in JSON and JSON Lines", _forecasting_seeds,
           lambda data: _invocation("forecasting", data),
           words=(*_KINDS, b"NaT", b"9999-12-31", b"-292277022657-01-01", b"2020-W01", b"[0.5]")),
)  # fmt: skip
