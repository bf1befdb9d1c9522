"""Tokens, public binds, signatures: who may do what, and what is never loaded."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import boto3
import numpy as np
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from lab.artifacts.signing import sign, verify_signature
from lab.core.errors import ArtifactError, ConfigError, IntegrityError
from lab.serve.config import SecurityConfig, VariantConfig, check_exposure, load_endpoint
from lab.serve.models import making, prepared
from tests.serve.models import SIZE, classifier
from tests.serve.served import Served, serving, write_config

TOKENS = {"caller": "invoke", "chief": "admin", "watcher": "metrics"}


def hashed(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def body() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((1, 3, SIZE, SIZE), np.float32))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def guarded(model_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("guarded")
    tokens = [{"sha256": hashed(token), "scopes": [scope]} for token, scope in TOKENS.items()]
    variants = [
        {"name": "one", "model": str(model_root / "first")},
        {"name": "two", "model": str(model_root / "second")},
    ]
    config = write_config(folder / "c.yaml", folder, variants=variants, security={"tokens": tokens})
    with serving(config) as served:
        yield served


@pytest.mark.parametrize(
    ("method", "path", "content", "kind", "allowed"),
    [
        ("POST", "/invocations", body(), "application/x-npy", {"caller", "chief"}),
        ("GET", "/v2/models/shop", None, "", {"caller", "chief"}),
        ("GET", "/metrics", None, "", {"watcher", "chief"}),
        ("GET", "/state", None, "", {"watcher", "chief"}),
        ("POST", "/endpoints/shop/weights", b'{"one": 2}', "application/json", {"chief"}),
        ("GET", "/ping", None, "", {"caller", "chief", "watcher", "nobody", ""}),
        ("GET", "/ui", None, "", {"caller", "chief", "watcher", "nobody", ""}),
    ],
)
def test_scopes(guarded: Served, method: str, path: str, content: bytes | None, kind: str, allowed: set[str]) -> None:
    for token in ("caller", "chief", "watcher", "nobody", ""):
        headers = ({"authorization": f"Bearer {token}"} if token else {}) | ({"content-type": kind} if kind else {})
        reply = guarded.call(method, path, content, headers)
        expected = 200 if token in allowed else 403 if token in TOKENS else 401
        assert reply.status == expected, (token, reply)


def test_awss_clients_send_the_token_as_access_key(guarded: Served) -> None:
    def client(token: str) -> object:
        return boto3.client(
            "sagemaker", endpoint_url=guarded.url, region_name="eu-west-1", aws_access_key_id=token,
            aws_secret_access_key="any", config=Config(retries={"total_max_attempts": 1}),
        )  # fmt: skip

    assert client("chief").describe_endpoint(EndpointName="shop")["EndpointStatus"] == "InService"  # type: ignore[attr-defined]
    with pytest.raises(ClientError, match="AccessDenied"):
        client("caller").describe_endpoint(EndpointName="shop")  # type: ignore[attr-defined]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org"])
def test_a_public_bind_needs_a_token(tmp_path: Path, host: str) -> None:
    config = load_endpoint(write_config(tmp_path / "c.yaml", tmp_path, host=host))
    with pytest.raises(ConfigError, match="refusing to serve"):
        check_exposure(config, insecure=False)
    check_exposure(config, insecure=True)
    tokens = [{"sha256": hashed("t"), "scopes": ["invoke"]}]
    check_exposure(
        load_endpoint(write_config(tmp_path / "d.yaml", tmp_path, host=host, security={"tokens": tokens})),
        insecure=False,
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_a_local_bind_does_not(tmp_path: Path, host: str) -> None:
    check_exposure(load_endpoint(write_config(tmp_path / "c.yaml", tmp_path, host=host)), insecure=False)


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """(private, public) in PEM."""
    key = Ed25519PrivateKey.generate()
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_a_signed_model_is_loaded_from_a_copy(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    folder = classifier(tmp_path / "model")
    sign(folder, keys[0])
    security = SecurityConfig(public_key=keys[1])
    deployed = prepared(VariantConfig(name="v", model=str(folder)), folder, security, tmp_path / "store")
    assert deployed.folder.is_relative_to(tmp_path / "store")
    assert (deployed.folder / "model.onnx").read_bytes() == (folder / "model.onnx").read_bytes()


def spoil_unsigned(folder: Path) -> None:
    (folder / "manifest.sig").unlink()


def spoil_byte(folder: Path) -> None:
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)


def spoil_manifest(folder: Path) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    content["name"] = "another"
    (folder / "manifest.json").write_text(json.dumps(content))


def spoil_extra(folder: Path) -> None:
    (folder / "extra.so").write_bytes(b"code")


def spoil_missing(folder: Path) -> None:
    (folder / "model.onnx").unlink()


@pytest.mark.parametrize("spoil", [spoil_unsigned, spoil_byte, spoil_manifest, spoil_extra, spoil_missing])
def test_what_is_not_as_signed_is_refused(tmp_path: Path, keys: tuple[Path, Path], spoil: object) -> None:
    folder = classifier(tmp_path / "model")
    sign(folder, keys[0])
    spoil(folder)  # type: ignore[operator]
    with pytest.raises(IntegrityError):
        prepared(VariantConfig(name="v", model="m"), folder, SecurityConfig(public_key=keys[1]), tmp_path / "store")


def test_another_key_is_refused(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    folder = classifier(tmp_path / "model")
    other = tmp_path / "other.pem"
    other.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    sign(folder, other)
    with pytest.raises(IntegrityError, match="not by this key"):
        verify_signature(folder, keys[1])
    with pytest.raises(ConfigError, match="not PEM"):
        verify_signature(folder, folder / "model.onnx")


def test_a_missing_model_says_which_commands_make_it(tmp_path: Path) -> None:
    hint = making(Path("runs/classification/fashion_mnist/bundles/x86"))
    assert hint == (
        "make train CONFIG=configs/classification/fashion_mnist.yaml; make export RUN=fashion_mnist; "
        "make compile RUN=fashion_mnist TARGET=x86"
    )
    with pytest.raises(ArtifactError, match="there is no model"):
        prepared(VariantConfig(name="v", model="m"), tmp_path / "none", SecurityConfig(), tmp_path / "store")


def test_tls(model_root: Path, tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    import ssl
    import subprocess
    from http.client import HTTPSConnection

    key, certificate = tmp_path / "tls.key", tmp_path / "tls.crt"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    config = write_config(
        tmp_path / "c.yaml", tmp_path, variants=[{"name": "one", "model": str(model_root / "first")}],
        security={"tls_certificate": str(certificate), "tls_key": str(key)},
    )  # fmt: skip
    with serving(config) as served:
        context = ssl.create_default_context(cafile=str(certificate))
        connection = HTTPSConnection(served.host, served.port, context=context, timeout=10)
        connection.request("GET", "/ping")
        assert connection.getresponse().status == 200
        connection.close()
