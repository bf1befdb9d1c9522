"""Files that come from elsewhere: manifests, signatures, golden samples, archives, configurations, transform inputs."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from benchmarks.fuzzing.limits import Target
from benchmarks.fuzzing.requests import framed, manifests, unframed
from lab.artifacts.golden import GOLDEN_NAME, Golden, read_golden, write_golden
from lab.artifacts.manifest import MANIFEST_NAME
from lab.artifacts.registered import REGISTERED_NAME, read_registered
from lab.artifacts.signing import SIGNATURE_NAME, verify_signature
from lab.config.load import build, parse_source
from lab.core.progress import set_quiet
from lab.data.archives import extract
from lab.data.tarwalk import walk
from lab.serve.config import EndpointConfig, SecurityConfig, VariantConfig
from lab.serve.engine.model import ServedModel
from lab.serve.ids import Origin, make_id, read_id
from lab.serve.models import prepared
from lab.serve.transform.config import TransformConfig
from lab.serve.transform.join import Joiner
from lab.serve.transform.split import body_of, open_input, records_of, requests_of

KEY = b"k" * 32
REPO = Path(__file__).resolve().parents[2]


@cache
def scratch(name: str) -> Path:
    """A folder of this process, in memory where the system has such a place."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-", dir=memory if memory.is_dir() else None))


def _emptied(name: str) -> Path:
    folder = scratch(name)
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    return folder


def _manifest(data: bytes) -> None:
    """As a variant's model is opened: checksums, identity, then the model itself and its preprocessing."""
    folder = scratch("manifest")
    (folder / MANIFEST_NAME).write_bytes(data)
    config = VariantConfig(name="v", model=str(folder), engine="zeros")
    prepared(config, folder, SecurityConfig(), folder)
    opened = ServedModel(folder, config)
    opened.deploy  # noqa: B018  finds the task's module
    opened.batches  # noqa: B018
    opened.close()


def _manifest_seeds() -> list[bytes]:
    bundle = manifests()["images"].to_dict() | {
        "kind": "bundle", "entries": [{"library": "model_b1.so", "batch_size": 1, "function": "main", "kernels": None}],
        "target": {"name": "x86", "kind": "x86", "arch": "x86_64", "required_features": ["avx2"]},
        "files": {"model.onnx": {"sha256": "0" * 64, "size_bytes": 3}},
        "parity": [{"name": "a", "reference": "b", "status": "passed"}],
    }  # fmt: skip
    return [json.dumps(manifest.to_dict()).encode() for manifest in manifests().values()] + [
        json.dumps(bundle).encode()
    ]


@cache
def _signing() -> tuple[Path, bytes, bytes]:
    """A folder with a signed manifest, its signature, and the public key."""
    key, folder = Ed25519PrivateKey.from_private_bytes(KEY), scratch("signed")
    manifests()["tensors"].save(folder)
    signature = key.sign((folder / MANIFEST_NAME).read_bytes())
    return folder, signature, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _signature(data: bytes) -> None:
    """The first 64 bytes are the signature, the rest the key."""
    folder, _, _ = _signing()
    (folder / SIGNATURE_NAME).write_bytes(data[:64])
    key = scratch("key") / "key.pem"
    key.write_bytes(data[64:])
    verify_signature(folder, key)


def _signature_seeds() -> list[bytes]:
    _, signature, key = _signing()
    return [signature + key, bytes(64) + key, signature + key[:40]]


def _golden(data: bytes) -> None:
    folder = scratch("golden")
    (folder / GOLDEN_NAME).write_bytes(data)
    read_golden(folder)


def _golden_seeds() -> list[bytes]:
    folder, x = scratch("golden"), np.arange(12, dtype=np.float32).reshape(3, 4)
    write_golden(folder, Golden({"x": x}, {"y": x}))
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (600000000,), }".ljust(117) + b"\n"
        with archive.open("input.x.npy", "w") as member:
            member.write(b"\x93NUMPY\x01\x00\x76\x00" + header)
            for _ in range(16):  # tens of megabytes here; mutations cannot make more of it, the header claims 600 MB
                member.write(bytes(1 << 20))
    return [(folder / GOLDEN_NAME).read_bytes(), bomb.getvalue()]


def _registered(data: bytes) -> None:
    folder = scratch("registered")
    (folder / REGISTERED_NAME).write_bytes(data)
    read_registered(folder)


def _archive(data: bytes) -> None:
    set_quiet(True)
    path = scratch("archives") / "archive"
    path.write_bytes(data)
    target = _emptied("unpacked")
    extract(path, target)
    assert not any(found.is_symlink() for found in target.rglob("*"))


def tar_file(change: Callable[[tarfile.TarFile], None], mode: str = "w") -> bytes:
    """An archive that `change` fills."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        change(archive)
    return buffer.getvalue()


def add_member(
    archive: tarfile.TarFile, name: str, content: bytes = b"content", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = (len(content) if kind == tarfile.REGTYPE else 0), kind, link
    archive.addfile(info, io.BytesIO(content))


def _archive_seeds() -> list[bytes]:
    def ordinary(archive: tarfile.TarFile) -> None:
        add_member(archive, "manifest.json", b"{}")
        add_member(archive, "a/" + "long" * 40, b"x" * 700)

    def links(archive: tarfile.TarFile) -> None:
        add_member(archive, "hard", kind=tarfile.LNKTYPE, link="/etc/passwd")
        add_member(archive, "soft", kind=tarfile.SYMTYPE, link="../../etc")

    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", "{}")
        archive.writestr("a/b.txt", "b" * 100)
    modes = ("w", "w:gz", "w:bz2", "w:xz")
    return [*(tar_file(ordinary, mode) for mode in modes), tar_file(links), zipped.getvalue(), bomb_zip(4)]


def bomb_zip(mebibytes: int) -> bytes:
    """Zeros: about a thousandth of what it unpacks to."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("zeros", "w") as member:
        for _ in range(mebibytes):
            member.write(bytes(1 << 20))
    return buffer.getvalue()


def _shards(data: bytes) -> None:
    for _ in walk(io.BytesIO(data), "archive", contents=True):
        pass
    for _ in walk(io.BytesIO(data), "archive", contents=False):
        pass


def _configuration(data: bytes) -> None:
    build(parse_source(data.decode("utf-8", "replace"), "endpoint.yaml"), EndpointConfig)


def _configuration_seeds() -> list[bytes]:
    return [path.read_bytes() for path in sorted((REPO / "configs" / "endpoints").glob("*.yaml"))] + [
        b"endpoint: x\nvariants:\n  - {name: a, steps: [m, {model: n, inputs: {a: b}}]}\n",
        b"a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]\nendpoint: x\n",
    ]


def _id(data: bytes) -> None:
    read_id(KEY, data.decode("latin-1"))


def _id_seeds() -> list[bytes]:
    return [make_id(KEY, Origin("one", 5, pinned, True)).encode() for pinned in (False, True)]


def _transform(data: bytes) -> None:
    """Records of a file, filtered, as requests, and an answer joined to them; the head has the job's options."""
    head, body = unframed(data)
    fields: dict[str, Any] = {name.replace("-", "_"): value for name, value in head.items() if name}
    config = TransformConfig.model_validate(fields)
    source = scratch("transform") / "source"
    source.write_bytes(body)
    joiner = Joiner(config)
    with open_input(source, config.compression) as file:
        found = records_of(file, "source", config.split_type, config.max_payload_bytes)
        for records in requests_of(found, config, "source"):
            body_of([joiner.filtered(record) for record in records], config.split_type)
            if config.processes:
                joiner.joined(records, body[:1000], config.accept or "application/json")


def _transform_seeds() -> list[bytes]:
    lines = b'{"id": 1, "x": [1, 2]}\n{"id": 2, "x": [3]}\n'
    joined = {"content_type": "application/jsonlines", "accept": "application/jsonlines", "split_type": "Line",
              "join_source": "Input", "input_filter": "$.x", "output_filter": "$['id','SageMakerOutput']"}  # fmt: skip
    columns = {"content_type": "text/csv", "split_type": "Line", "input_filter": "$[1:]", "join_source": "Input",
               "accept": "text/csv"}  # fmt: skip
    return [
        framed(lines, **joined), framed(b'1,"a, b",3\n4,5,6\n', **columns),
        framed(gzip.compress(lines * 20), split_type="Line", compression="Gzip"),
        framed(gzip.compress(bytes(30_000_000)), split_type="Line", compression="Gzip", max_payload_mb="1"),
        framed(b"\x0a\x23\xd7\xce\x03\x00\x00\x00abc\x00", split_type="RecordIO", batch_strategy="SingleRecord"),
    ]  # fmt: skip


def _transform_errors() -> tuple[type[BaseException], ...]:
    from pydantic import ValidationError

    from lab.core.errors import LabError

    return LabError, ValidationError  # the options are the operator's own, checked where the command reads them


TARGETS = (
    Target("manifest", "manifest.json of a model, and opening it", _manifest_seeds, _manifest,
           words=(b"null", b"../../etc/passwd", b"float32", b"classification", b"functions")),
    Target("signature", "manifest.sig and the key in PEM", _signature_seeds, _signature,
           words=(b"-----BEGIN PRIVATE KEY-----", b"-----BEGIN CERTIFICATE-----")),
    Target("golden", "golden.npz", _golden_seeds, _golden, words=(b"PK\x03\x04", b"PK\x01\x02", b"'|O'", b".npy")),
    Target("registered", "registered.json", lambda: [b'{"model": "a", "version": "1"}'], _registered),
    Target("archive", "tar and zip archives, unpacked", _archive_seeds, _archive,
           words=(b"PK\x03\x04", b"PK\x05\x06", b"../", b"ustar", b"\x1f\x8b\x08")),
    Target("shards", "tar files read in one pass", _archive_seeds, _shards, words=(b"ustar", b"path=", b"../")),
    Target("configuration", "an endpoint's YAML", _configuration_seeds, _configuration,
           words=(b"&a", b"*a", b"!!python/object:os.system", b"<<: *a", b"? ", b"- ", b"{", b"1e400", b"0x1", b": ")),
    Target("inference-id", "ids in /feedback", _id_seeds, _id, words=(b".", b"-1", b"_")),
    Target("transform", "records of batch transform: lines, RecordIO, gzip, CSV, filters, joins", _transform_seeds,
           _transform, allowed=_transform_errors(), words=(b"$.a", b"$[0,-1:]", b'"', b"Line", b"RecordIO", b"Gzip")),
)  # fmt: skip
