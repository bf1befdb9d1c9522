"""The one place where errors become HTTP statuses.

400 malformed or of the wrong shape, 401 and 403 not allowed, 404 and 405 no such thing, 408 the body did not come in
time, 413 too large, 415 a content type that is not understood, 424 the model raised, 500 a mistake of ours, 503 with
Retry-After the queue is full or the endpoint is going down, 504 the deadline passed.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from lab.core.errors import ArtifactError, ConfigError, DataError, LabError, UnsupportedError
from lab.runtime.http_client import RemoteTimeoutError, UnreachableError
from lab.serve.routing import NoTrafficError


class ServeError(LabError):
    """An error with a status of its own; `reason` is one of `slab.REASONS` or empty."""

    status = 500
    reason = ""
    retry_after_s: int | None = None


class NotFoundError(ServeError):
    status = 404


class MethodError(ServeError):
    status = 405


class BodyTimeoutError(ServeError):
    status = 408


class TooLargeError(ServeError):
    status, reason = 413, "too_large"


class MediaTypeError(ServeError):
    status = 415


class UnauthorizedError(ServeError):
    status, reason = 401, "auth"


class ForbiddenError(ServeError):
    status, reason = 403, "auth"


class QueueFullError(ServeError):
    status, reason, retry_after_s = 503, "queue_full", 1


class DrainingError(ServeError):
    status, reason, retry_after_s = 503, "draining", 2


class NotReadyError(ServeError):
    status, retry_after_s = 503, 1


class DeadlineError(ServeError):
    status, reason = 504, "deadline"


class ModelRaisedError(ServeError):
    """The model raised; what it said is in the log under `error_id`, never in the answer."""

    status = 424

    def __init__(self, error_id: str) -> None:
        self.error_id = error_id
        super().__init__(f"the model failed on this request (error {error_id})")


class AccountedError(Exception):
    """Carries an error that may be shown, of a request that its variant has counted already."""

    def __init__(self, shown: LabError) -> None:
        self.shown = shown
        super().__init__(shown.what)


@dataclass(frozen=True)
class Failure:
    """What the client is told."""

    status: int
    message: str
    reason: str = ""
    retry_after_s: int | None = None


def to_serve_error(error: BaseException) -> tuple[LabError, bool]:
    """An error that may be shown, and whether the original must go to the log."""
    if isinstance(error, UnreachableError):
        return NotReadyError("the model's server cannot answer now"), False
    if isinstance(error, RemoteTimeoutError):
        return DeadlineError("the model's server did not answer in time"), False
    if isinstance(error, ServeError | DataError | UnsupportedError | ConfigError | ArtifactError | NoTrafficError):
        return error, False
    return ModelRaisedError(secrets.token_hex(6)), True


def failure_of(error: LabError) -> Failure:
    """Status and message of an error that may be shown."""
    message = " ".join(line.strip() for line in error.message().splitlines())[:1000]
    if isinstance(error, ServeError):
        return Failure(error.status, message, error.reason, error.retry_after_s)
    if isinstance(error, NoTrafficError):
        return Failure(503, message, "", 5)
    if isinstance(error, DataError | ConfigError):
        return Failure(400, message)
    return Failure(415 if isinstance(error, UnsupportedError) else 424, message)


def status_name(status: int) -> str:
    """Of `slab.STATUSES`: what a status says of the variant that answered."""
    if status < 400:
        return "ok"
    if status in (429, 503):
        return "rejected"
    return "client_error" if status < 500 and status != 424 else "model_error"
