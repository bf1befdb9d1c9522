"""Hostile input: each kind is refused as the table says, quickly, and the endpoint goes on serving."""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
import socket
import struct
import tarfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks.fuzzing.files import add_member, tar_file
from lab.core.errors import DataError, LabError
from lab.core.signature import Signature, TensorSpec
from lab.data.archives import extract
from lab.serve.protocols.oip import _read_inputs
from lab.serve.protocols.tensors import check_feed, read_npy
from tests.serve.models import SIZE
from tests.serve.served import Served

NPY, JSON, OIP = "application/x-npy", "application/json", "application/octet-stream"
INVOKE, INFER = "/invocations", "/v2/models/shop/infer"


def npy(array: np.ndarray, *, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


def png(width: int, height: int) -> bytes:
    """A header that claims so many pixels, and next to no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def small_png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def claimed_npy(header: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def oip(entry: dict[str, object], binary: bytes = b"", **fields: object) -> tuple[bytes, dict[str, str]]:
    document = json.dumps({"inputs": [{"name": "image", "datatype": "FP32"} | entry], **fields}).encode()
    return document + binary, {"Inference-Header-Content-Length": str(len(document))} if binary else {}


X = np.zeros((1, 3, SIZE, SIZE), np.float32)
NAN = np.full((1, 3, SIZE, SIZE), np.nan, np.float32)
OBJECTS = npy(np.asarray([{"a": 1}], dtype=object), allow_pickle=True)
SHAPE = [1, 3, SIZE, SIZE]
# ruff: noqa: E501  a row of the table is a line
# what, path, content type, body (with extra headers), status
TABLE = [
    ("image of 10^9 pixels", INVOKE, "image/png", png(100_000, 10_000), 413),
    ("image of 2^31 pixels a side", INVOKE, "image/png", png(2**31 - 1, 2**31 - 1), (400, 413)),
    ("image cut off", INVOKE, "image/png", small_png()[:45], 400),
    ("image of an unknown kind", INVOKE, "image/png", b"BM" + bytes(100), 400),
    ("image type, no image", INVOKE, "image/jpeg", b"\xff\xd8\xff" + bytes(50), 400),
    ("empty image", INVOKE, "image/png", b"", 400),
    ("wrong shape", INVOKE, NPY, npy(X[:, :2]), 400),
    ("wrong rank", INVOKE, NPY, npy(X[0]), 400),
    ("wrong dtype", INVOKE, NPY, npy(X.astype(np.float64)), 400),
    ("batch of none", INVOKE, NPY, npy(X[:0]), 400),
    ("NaN", INVOKE, NPY, npy(NAN), 400),
    ("pickled array", INVOKE, NPY, OBJECTS, 400),
    ("npy that claims more than it has", INVOKE, NPY, npy(X)[:-8], 400),
    ("npy with a shape beyond memory", INVOKE, NPY,
     claimed_npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 3, 8, 8)}"), 400),
    ("npy with a negative shape", INVOKE, NPY,
     claimed_npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"), 400),
    ("npy whose header is code", INVOKE, NPY, claimed_npy(b"__import__('os').system('true')"), 400),
    ("npy whose header nests", INVOKE, NPY, claimed_npy(b"(" * 5000), 400),
    ("npy without a magic", INVOKE, NPY, b"garbage", 400),
    ("no JSON", INVOKE, JSON, b"{", 400),
    ("JSON that nests 100,000 deep", INVOKE, JSON, b'{"instances":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
    ("JSON of 3 million numbers", INVOKE, JSON, b'{"instances":[' + b"0," * 3_000_000 + b"0]}", 400),
    ("JSON ragged", INVOKE, JSON, b'{"instances": [[1, 2], [3]]}', 400),
    ("JSON of text", INVOKE, JSON, b'{"instances": ["a"]}', 400),
    ("JSON null", INVOKE, JSON, json.dumps({"instances": [[[[None] * 8] * 8] * 3]}).encode(), 400),
    ("JSON 1e999", INVOKE, JSON, b'{"instances": [1e999]}', 400),
    ("JSON without instances", INVOKE, JSON, b'{"data": []}', 400),
    ("JSON array", INVOKE, JSON, b"[]", 400),
    ("JSON not UTF-8", INVOKE, JSON, b'{"instances": "\xff"}', 400),
    ("unknown content type", INVOKE, "application/x-python-pickle", b"cos\nsystem\n", 415),
    ("no content type", INVOKE, "", b"x", 415),
    ("body of 6 MiB and a byte", INVOKE, NPY, bytes(6_291_457), 413),
    ("gzip bomb", INVOKE, JSON, (gzip.compress(bytes(10_000_000)), {"Content-Encoding": "gzip"}), 415),
    ("oip, no inputs", INFER, JSON, b"{}", 400),
    ("oip, input twice", INFER, JSON,
     json.dumps({"inputs": [{"name": "image", "datatype": "FP32", "shape": SHAPE, "data": [0] * 192}] * 2}).encode(), 400),
    ("oip, shape of 2^62", INFER, OIP, oip({"shape": [2**31, 2**31], "parameters": {"binary_data_size": 0}}, b"\0" * 4), 400),
    ("oip, negative shape", INFER, JSON, oip({"shape": [-1, 3, 8, 8], "data": []}), 400),
    ("oip, shape is text", INFER, JSON, oip({"shape": "1", "data": []}), 400),
    ("oip, more bytes than there are", INFER, OIP, oip({"shape": SHAPE, "parameters": {"binary_data_size": 10**9}}, b"\0" * 4), 400),
    ("oip, bytes left over", INFER, OIP, oip({"shape": SHAPE, "parameters": {"binary_data_size": 768}}, b"\0" * 800), 400),
    ("oip, size is a truth value", INFER, OIP, oip({"shape": SHAPE, "parameters": {"binary_data_size": True}}, b"\0"), 400),
    ("oip, NaN in binary", INFER, OIP, oip({"shape": SHAPE, "parameters": {"binary_data_size": 768}}, NAN.tobytes()), 400),
    ("oip, header length beyond the body", INFER, OIP, (b"{}", {"Inference-Header-Content-Length": "9999"}), 400),
    ("oip, header length is no number", INFER, OIP, (b"{}", {"Inference-Header-Content-Length": "-1"}), 400),
    ("oip, unknown output", INFER, JSON, oip({"shape": SHAPE, "data": [0] * 192}, outputs=[{"name": "x"}]), 400),
    ("oip, a thousand outputs", INFER, JSON, oip({"shape": SHAPE, "data": [0] * 192}, outputs=[{"name": "logits"}] * 1000), 400),
    ("form from another site", "/endpoints/shop/weights", "text/plain", b'{"one": 0}', 415),
    ("weights that are text", "/endpoints/shop/weights", JSON, b'{"one": "all"}', 400),
    ("weights that are NaN", "/endpoints/shop/weights", JSON, b'{"one": NaN}', 400),
    ("control plane without a target", "/", "application/x-amz-json-1.1", b"{}", 400),
    ("feedback for an id made up", "/endpoints/shop/feedback", JSON,
     b'{"inference_id": "two.1.0.aa.bb", "metric": "m", "value": 1}', 400),
    ("path that climbs", "/endpoints/../../etc/passwd/invocations", JSON, b"{}", 404),
]  # fmt: skip


@pytest.mark.parametrize(("what", "path", "kind", "content", "status"), TABLE, ids=[row[0] for row in TABLE])
def test_refused(endpoint: Served, what: str, path: str, kind: str, content: object, status: object) -> None:
    body, headers = content if isinstance(content, tuple) else (content, {})
    reply = endpoint.call("POST", path, body, {"content-type": kind, **headers} if kind else headers)
    allowed = status if isinstance(status, tuple) else (status,)
    assert reply.status in allowed, reply
    assert b"Traceback" not in reply.body
    assert len(reply.body) < 3000
    assert endpoint.call("GET", "/ping").status == 200


def exchange(
    endpoint: Served, parts: list[bytes], pause_s: float = 0.0, timeout_s: float = 15.0
) -> tuple[bytes, float]:
    """Send raw bytes; the answer until the server closes, and how long that took."""
    began = time.monotonic()
    with socket.create_connection((endpoint.host, endpoint.port), timeout=timeout_s) as raw:
        answer = b""
        try:
            for part in parts:
                raw.sendall(part)
                time.sleep(pause_s)
            while data := raw.recv(65536):
                answer += data
        except (ConnectionResetError, BrokenPipeError):
            pass
    return answer, time.monotonic() - began


HEAD = b"POST /invocations HTTP/1.1\r\nHost: localhost\r\n"


def test_headers_that_never_end_are_cut_off(endpoint: Served) -> None:
    """Slow loris: the configuration allows 1 s for headers."""
    answer, took_s = exchange(endpoint, [b"GET /ping HTTP/1.1\r\nHost: localhost\r\nX-A: "])
    assert answer.startswith(b"HTTP/1.1 408")
    assert took_s < 8
    answer, _ = exchange(endpoint, [b"GET /pi", *[b"n"] * 6], pause_s=0.3)
    assert b"408" in answer.split(b"\r\n")[0] or answer == b""


def test_a_connection_that_says_nothing_is_closed(endpoint: Served) -> None:
    answer, took_s = exchange(endpoint, [])
    assert answer.startswith(b"HTTP/1.1 408")
    assert took_s < 8


def test_a_body_that_never_ends_is_cut_off(endpoint: Served) -> None:
    parts = [HEAD + b"Content-Type: application/json\r\nContent-Length: 100\r\nConnection: close\r\n\r\n{"]
    answer, took_s = exchange(endpoint, parts)
    assert answer.startswith(b"HTTP/1.1 408")
    assert took_s < 8


def test_chunks_are_counted_not_believed(endpoint: Served) -> None:
    chunk = b"100000\r\n" + bytes(0x100000) + b"\r\n"
    head = HEAD + b"Content-Type: application/x-npy\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    answer, _ = exchange(endpoint, [head, *[chunk] * 7, b"0\r\n\r\n"])
    assert answer.startswith(b"HTTP/1.1 413")


def test_who_sends_too_much_reads_why(endpoint: Served) -> None:
    """The rest of a body that is little too large is received first: a reset connection would lose the answer."""
    head = HEAD + b"Content-Type: application/x-npy\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    answer, _ = exchange(endpoint, [head % (20 << 20), *[bytes(1 << 20)] * 20], pause_s=0.002)
    assert answer.startswith(b"HTTP/1.1 413")
    answer, took_s = exchange(endpoint, [head % (1 << 40)])
    assert answer.startswith(b"HTTP/1.1 413")
    assert took_s < 8
    answer, took_s = exchange(endpoint, [head.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n") % (7 << 20)])
    assert answer.startswith(b"HTTP/1.1 413")
    assert took_s < 8


@pytest.mark.parametrize(
    "filler", [b"X-A: " + b"a" * 20_000 + b"\r\n", b"".join(b"X-%d: aaaaaaaa\r\n" % i for i in range(2000))]
)
def test_large_headers_are_refused(endpoint: Served, filler: bytes) -> None:
    answer, _ = exchange(endpoint, [b"GET /ping HTTP/1.1\r\nHost: localhost\r\n" + filler + b"\r\n"])
    assert answer.startswith(b"HTTP/1.1 431")


TWO_LENGTHS = HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
SMUGGLED = {
    "length and chunks": TWO_LENGTHS,
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
    "a list of lengths": HEAD + b"Content-Length: 2, 3\r\n\r\n{}x",
    "length with a sign": HEAD + b"Content-Length: +2\r\n\r\n{}",
    "negative length": HEAD + b"Content-Length: -2\r\n\r\n{}",
    "length in hexadecimal": HEAD + b"Content-Length: 0x2\r\n\r\n{}",
    "length beyond 64 bits": HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n{}",
    "space before the colon": HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "unknown transfer coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked is not the last coding": HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "two transfer codings": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "lines that end in LF alone": HEAD.replace(b"\r\n", b"\n") + b"Content-Length: 2\n\n{}",
    "a header over two lines": HEAD + b"X-A: a\r\n b\r\nContent-Length: 2\r\n\r\n{}",
    "a null byte in a header": HEAD + b"X-A: a\0b\r\nContent-Length: 2\r\n\r\n{}",
    "a space in a header's name": HEAD + b"X A: b\r\nContent-Length: 2\r\n\r\n{}",
    "chunk size beyond 64 bits": CHUNKED + b"FFFFFFFFFFFFFFFFF\r\n{}\r\n0\r\n\r\n",
    "negative chunk size": CHUNKED + b"-1\r\n{}\r\n0\r\n\r\n",
    "chunk extension that ends in LF": CHUNKED + b"2;\n{}\r\n0\r\n\r\n",
    "HTTP/2 without asking": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/1.2": b"GET /ping HTTP/1.2\r\nHost: localhost\r\n\r\n",
    "TLS to a port without it": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
}


@pytest.mark.parametrize("what", SMUGGLED)
def test_what_two_servers_could_read_in_two_ways_is_refused(endpoint: Served, what: str) -> None:
    """Request smuggling: one answer, 400, and the connection is closed, so that nothing after it is taken for more."""
    answer, took_s = exchange(endpoint, [SMUGGLED[what]])
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert took_s < 1.0  # before the timeout of headers or body could have ended it


def test_a_long_address_is_refused(endpoint: Served) -> None:
    answer, _ = exchange(endpoint, [b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"])
    assert answer.startswith(b"HTTP/1.1 431")


def test_a_flipped_byte_in_a_bundle_is_refused_and_the_old_model_goes_on(endpoint: Served, model_root: Path) -> None:
    folder = shutil.copytree(model_root / "second", model_root / "flipped", dirs_exist_ok=True)
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)
    asked = json.dumps({"variant": "two", "model": "flipped"}).encode()
    reply = endpoint.call("POST", "/endpoints/shop/reload", asked, {"content-type": JSON})
    assert reply.status == 400
    assert b"model.onnx is not the file this artifact was built with" in reply.body
    pinned = {"content-type": NPY, "x-amzn-sagemaker-target-variant": "two"}
    assert endpoint.call("POST", INVOKE, npy(X), pinned).status == 200


@pytest.mark.parametrize(
    "model", ["../first", "/etc", "file:///etc/passwd", "http://example.org/model", "a\0b", "x" * 300]
)
def test_models_outside_of_the_root_are_not_loaded(endpoint: Served, model: str) -> None:
    asked = json.dumps({"variant": "two", "model": model}).encode()
    reply = endpoint.call("POST", "/endpoints/shop/reload", asked, {"content-type": JSON})
    assert reply.status == 400
    assert endpoint.call("POST", INVOKE, npy(X), {"content-type": NPY}).status == 200


@pytest.mark.parametrize(("kind", "link"), [(tarfile.LNKTYPE, "manifest.json"), (tarfile.LNKTYPE, "/etc/passwd"),
                                            (tarfile.SYMTYPE, ".."), (tarfile.CHRTYPE, ""), (tarfile.FIFOTYPE, "")])  # fmt: skip
def test_links_and_devices_in_a_tar_file_are_not_unpacked(tmp_path: Path, kind: bytes, link: str) -> None:
    def fill(archive: tarfile.TarFile) -> None:
        add_member(archive, "manifest.json")
        add_member(archive, "member", kind=kind, link=link)

    (tmp_path / "a.tar").write_bytes(tar_file(fill))
    with pytest.raises(DataError, match="member: a link or device"):
        extract(tmp_path / "a.tar", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["manifest.json"]


DOCUMENTED = re.compile(
    r"^\| (?P<what>[^|]+) \| (?P<status>\d{3}|refused)[^|]* \| [^|]+ \| `(?P<proof>[^`]+)` \|$", re.M
)


def test_the_table_in_the_documentation_says_what_is_tested(repo: Path) -> None:
    """Each row names a row of the table above, with its status, or a test of this package."""
    rows = {what: status for what, *_, status in TABLE}
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    documented = list(DOCUMENTED.finditer((repo / "docs" / "ENDPOINT.md").read_text()))
    assert len(documented) >= 25
    for row in documented:
        if row["proof"] in rows:
            assert str(rows[row["proof"]]) == row["status"], row["what"]
        else:
            assert f"def {row['proof']}(" in tests, row["what"]


def test_another_host_name_is_refused(endpoint: Served) -> None:
    """A page that resolves its own name to 127.0.0.1 must not get at the endpoint."""
    assert endpoint.call("GET", "/state", headers={"Host": "evil.example"}).status == 400
    assert endpoint.call("GET", "/ping", headers={"Host": "localhost:8080"}).status == 200


SIGNATURE = Signature((TensorSpec("image", "float32", ("batch", 3)),), (TensorSpec("y", "float32", ("batch", 1)),))
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=10,
)  # fmt: skip


def entries() -> Iterator[st.SearchStrategy[dict[str, object]]]:
    known = st.fixed_dictionaries({
        "name": st.sampled_from(["image", "other"]), "datatype": st.sampled_from(["FP32", "INT64", "BYTES"]),
        "shape": st.lists(st.integers(-2, 2**70), max_size=4) | JSON_VALUES, "data": JSON_VALUES,
        "parameters": JSON_VALUES | st.fixed_dictionaries({"binary_data_size": st.integers(-5, 50) | JSON_VALUES}),
    })  # fmt: skip
    yield known


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    document=st.fixed_dictionaries({"inputs": st.lists(next(entries()), max_size=3) | JSON_VALUES}),
    binary=st.binary(max_size=64),
)
def test_the_oip_parser_raises_only_its_own_errors(document: dict[str, object], binary: bytes) -> None:
    try:
        feed = _read_inputs(SIGNATURE, document, memoryview(binary))
        check_feed(SIGNATURE, feed, finite=True)
    except LabError:
        return
    assert feed["image"].shape[1:] == (3,)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_the_npy_parser_raises_only_its_own_errors(data: st.DataObject) -> None:
    good = bytearray(npy(np.arange(12, dtype=np.float32).reshape(4, 3)))
    for _ in range(data.draw(st.integers(0, 6))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(good)))
    try:
        array = read_npy(bytes(good[:cut]) if data.draw(st.booleans()) else bytes(good))
    except LabError:
        return
    assert array.dtype.kind in "biuf"
