"""Who may do what: hashed bearer tokens with scopes, and which Host headers are answered."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from lab.serve.config import EndpointConfig
from lab.serve.protocols.errors import ForbiddenError, ServeError, UnauthorizedError
from lab.serve.protocols.http import Request

LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]", "::1")
_AWS = "AWS4-HMAC-SHA256 Credential="


class MisdirectedError(ServeError):
    """A Host header that is not ours: a page that had its name resolved to this machine (DNS rebinding)."""

    status = 400


class Gatekeeper:
    """Checks a request before anything of it is read.

    A token comes as `Authorization: Bearer TOKEN`, or, from AWS's clients, as the access key id of their signature
    (`boto3.client(..., aws_access_key_id=TOKEN, aws_secret_access_key="any")`); the signature itself is not verified.
    Without tokens in the configuration every request is let in, signed or not.
    """

    def __init__(self, config: EndpointConfig) -> None:
        self._tokens = [(bytes.fromhex(token.sha256), frozenset(token.scopes)) for token in config.security.tokens]
        self._hosts = _hosts(config)

    def check_host(self, request: Request) -> None:
        """Raises MisdirectedError."""
        if not self._hosts:
            return
        host = (request.header("host") or "").lower()
        name = host if host.endswith("]") else host.rpartition(":")[0] if ":" in host else host
        if name not in self._hosts:
            raise MisdirectedError("the Host header is not one of this endpoint", got=host[:100])

    def check(self, request: Request, scopes: Sequence[str]) -> None:
        """Raises UnauthorizedError without a known token, ForbiddenError with one that has none of the scopes."""
        if not self._tokens:
            return
        token = _token(request.header("authorization") or "")
        if token is None:
            raise UnauthorizedError("a token is needed", expected="Authorization: Bearer TOKEN")
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        granted: frozenset[str] | None = None
        for known, allowed in self._tokens:  # all are compared, so that time tells nothing
            if hmac.compare_digest(known, digest):
                granted = (granted or frozenset()) | allowed
        if granted is None:
            raise UnauthorizedError("the token is not known")
        if not granted & set(scopes):
            raise ForbiddenError("the token does not allow this", expected=" or ".join(scopes))


def _hosts(config: EndpointConfig) -> frozenset[str]:
    if config.security.allowed_hosts:
        return frozenset(host.lower() for host in config.security.allowed_hosts)
    return frozenset() if config.is_public else frozenset((*LOCAL_HOSTS, config.host.lower()))


def _token(authorization: str) -> str | None:
    if authorization[:7].lower() == "bearer ":
        return authorization[7:].strip() or None
    if authorization.startswith(_AWS):
        return authorization[len(_AWS) :].partition("/")[0] or None
    return None
