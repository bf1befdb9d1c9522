"""An endpoint elsewhere as the callee of a batch transform: one POST per request."""

from __future__ import annotations

from http.client import HTTPException
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from lab.core.errors import ConfigError, DataError, LabError
from lab.serve.transform.config import TransformConfig
from lab.serve.transform.run import Reply

MAY_PASS = (408, 409, 425, 429)
"""Statuses below 500 that say nothing against the request."""


class RemoteFailedError(LabError):
    """The endpoint could not answer; it may later."""


class RemoteModel:
    """An address that takes invocations, e.g. http://127.0.0.1:8080/endpoints/NAME/invocations.

    Args:
        token: sent as bearer token.

    Raises:
        ConfigError: no address over HTTP.
    """

    def __init__(self, url: str, config: TransformConfig, token: str | None = None) -> None:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise ConfigError("this is no address of an endpoint", got=url, expected="http://host:port/path")
        self._url, self._timeout_s = url, config.timeout_s
        self._headers = {"Content-Type": config.content_type}
        if config.accept:
            self._headers["Accept"] = config.accept
        if token:
            self._headers["Authorization"] = f"Bearer {token}"

    def __call__(self, body: bytes) -> Reply:
        """Raises DataError when the endpoint refuses the request, RemoteFailedError when it cannot answer it now."""
        request = Request(self._url, body, self._headers, method="POST")
        try:
            with urlopen(request, timeout=self._timeout_s) as response:
                return Reply(response.read(), response.headers.get("Content-Type", ""))
        except HTTPError as error:
            with error:
                told = error.read(300).decode("utf-8", "replace")
            if error.code < 500 and error.code not in MAY_PASS:
                raise DataError(f"the endpoint refused a request with {error.code}", got=told) from error
            raise RemoteFailedError(f"the endpoint answered {error.code}", got=told) from error
        except (OSError, HTTPException) as error:
            raise RemoteFailedError("the endpoint cannot be reached", got=error) from error
