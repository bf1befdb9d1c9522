"""One kept connection to a model server elsewhere: time limits, and retries only where nothing can have run twice."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection, RemoteDisconnected
from urllib.parse import urlsplit

from lab.core.errors import ConfigError, DataError, LabError

MAX_ANSWER_BYTES = 256 * 1024 * 1024


class UnreachableError(LabError):
    """Nothing listens there, it broke off, or it says that it cannot now; it may later."""


class RemoteTimeoutError(LabError):
    """No answer in time; the request may have run."""


class RemoteFailedError(LabError):
    """It answered, that it failed or with something that is no answer."""


@dataclass(frozen=True)
class Reply:
    """An answer of status 200; names of `headers` in lower case."""

    headers: Mapping[str, str]
    body: bytes


class Client:
    """Not thread-safe: one per thread, so that as many threads are a pool of as many connections.

    Args:
        base: http(s)://host:port, and what comes before every path.
        timeout_s: to connect, and to wait for each part of an answer.
        retries: further tries where the request was not taken: no connection, or a kept one that the other end had
            closed before its first byte of an answer (RFC 9112, section 9.3.1). Never after a timeout.
        headers: sent with every request.

    Raises:
        ConfigError: no address over HTTP.
    """

    def __init__(self, base: str, timeout_s: float, retries: int = 1, headers: Mapping[str, str] | None = None) -> None:
        parts = urlsplit(base)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ConfigError("this is no address of a model server", got=base[:200], expected="http://host:port/path")
        self.base, self._timeout_s, self._retries = base.rstrip("/"), timeout_s, retries
        self._secure, self._host, self._port = parts.scheme == "https", parts.hostname, parts.port
        self._prefix, self._headers = parts.path.rstrip("/"), dict(headers or {})
        self._connection: HTTPConnection | None = None

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """One request and its answer.

        Raises:
            UnreachableError: after all tries, or the answer is 429 or 503.
            RemoteTimeoutError: no answer in time. DataError: any other answer of 400 to 499 but 424.
            RemoteFailedError: 424, 500 and above, or no HTTP.
        """
        left = self._retries
        while True:
            kept = self._connection is not None
            try:
                connection = self._connected()
            except TimeoutError as error:
                raise UnreachableError(f"{self.base} cannot be reached in {self._timeout_s:g} s") from error
            except OSError as error:
                if left:
                    left -= 1
                    continue
                raise UnreachableError(f"{self.base} cannot be reached", got=error) from error
            try:
                return self._exchange(connection, method, path, body, headers)
            except TimeoutError as error:
                self.close()
                raise RemoteTimeoutError(f"{self.base} did not answer within {self._timeout_s:g} s") from error
            except (RemoteDisconnected, ConnectionError) as error:
                self.close()
                if kept:  # it was closed while idle; a fresh one is another matter, and does not count as a retry
                    continue
                raise UnreachableError(f"{self.base} broke off", got=error) from error
            except (OSError, HTTPException) as error:
                self.close()
                raise RemoteFailedError(f"{self.base} did not answer in HTTP", got=repr(error)) from error

    def close(self) -> None:
        """Give the connection up; the next request opens another."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.close()
            self._connection = None

    def _connected(self) -> HTTPConnection:
        if self._connection is None:
            opened: HTTPConnection
            if self._secure:
                context = ssl.create_default_context()
                opened = HTTPSConnection(self._host, self._port, timeout=self._timeout_s, context=context)
            else:
                opened = HTTPConnection(self._host, self._port, timeout=self._timeout_s)
            opened.connect()
            self._connection = opened
        return self._connection

    def _exchange(
        self, connection: HTTPConnection, method: str, path: str, body: bytes | None, headers: Mapping[str, str] | None
    ) -> Reply:
        connection.request(method, self._prefix + path, body, self._headers | dict(headers or {}))
        answer = connection.getresponse()
        content = answer.read(MAX_ANSWER_BYTES + 1)
        if answer.will_close or len(content) > MAX_ANSWER_BYTES:
            self.close()
        if len(content) > MAX_ANSWER_BYTES:
            raise RemoteFailedError(f"the answer of {self.base} is too large", expected=f"{MAX_ANSWER_BYTES} at most")
        if answer.status == 200:
            return Reply({name.lower(): value for name, value in answer.getheaders()}, content)
        told = content[:300].decode("utf-8", "replace")
        if answer.status in (429, 503):
            raise UnreachableError(f"{self.base} has no room now ({answer.status})", got=told)
        if 400 <= answer.status < 500 and answer.status != 424:
            raise DataError(f"{self.base} refused the request ({answer.status})", got=told)
        raise RemoteFailedError(f"{self.base} failed ({answer.status})", got=told)
