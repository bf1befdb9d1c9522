"""Signed artifacts: an Ed25519 signature of the manifest, which holds the hash of every file (RFC 8032)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.artifacts.files import atomic_path
from lab.artifacts.manifest import MANIFEST_NAME, Manifest
from lab.core.errors import ConfigError, IntegrityError, MissingToolError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE_NAME = "manifest.sig"


def sign(folder: Path, private_key: Path) -> Path:
    """Sign an artifact with a key in PEM (`openssl genpkey -algorithm ed25519`): writes `manifest.sig` into it.

    Raises:
        ArtifactError, IntegrityError: the artifact is damaged.
        ConfigError: the key is none.
    """
    Manifest.load(folder)
    signature = _private(private_key).sign((folder / MANIFEST_NAME).read_bytes())
    with atomic_path(folder / SIGNATURE_NAME) as path:
        path.write_bytes(signature)
    return folder / SIGNATURE_NAME


def verify_signature(folder: Path, public_key: Path) -> None:
    """Check that the manifest is signed, that every file in the folder is in it, and that each is as it says.

    Raises:
        IntegrityError: unsigned, signed by another key, changed since, or with a file that the manifest does not know.
        ConfigError: the key is none.
    """
    from cryptography.exceptions import InvalidSignature

    key, path = _public(public_key), folder / SIGNATURE_NAME
    if not path.is_file():
        raise IntegrityError(
            f"{folder.name} is not signed", expected=SIGNATURE_NAME, hint="only signed models are loaded here"
        )
    try:
        key.verify(path.read_bytes(), (folder / MANIFEST_NAME).read_bytes())
    except InvalidSignature as error:
        raise IntegrityError(f"the signature of {folder.name} is not by this key", got=public_key) from error
    manifest = Manifest.load(folder)
    known = {*manifest.files, MANIFEST_NAME, SIGNATURE_NAME}
    found = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    if found - known:
        raise IntegrityError("the folder holds files that the manifest does not know", got=sorted(found - known)[:5])
    unlisted = [name for entry in manifest.entries for name in entry.files if name not in manifest.files]
    if unlisted:
        raise IntegrityError("the manifest records no hash of what it loads", got=unlisted)


def _load(path: Path, what: str) -> bytes:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise MissingToolError("signatures need the package cryptography", hint="pip install '.[serve]'") from error
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"the {what} cannot be read", got=f"{path}: {error.strerror}") from error


def _public(path: Path) -> Ed25519PublicKey:
    content = _load(path, "public key")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    key: Ed25519PublicKey = _of_kind(load_pem_public_key, content, Ed25519PublicKey, path)
    return key


def _private(path: Path) -> Ed25519PrivateKey:
    content = _load(path, "private key")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key: Ed25519PrivateKey = _of_kind(lambda pem: load_pem_private_key(pem, None), content, Ed25519PrivateKey, path)
    return key


def _of_kind(load: Callable[[bytes], Any], content: bytes, kind: Any, path: Path) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        found = load(content)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError("the key is not PEM", got=f"{path}: {error}") from error
    if not isinstance(found, kind):
        raise ConfigError("the key is of another kind", got=type(found).__name__, expected="Ed25519")
    return found
