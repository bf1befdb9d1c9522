"""Where MLflow is, whether it answers, and a client for it.

MLflow takes its HTTP limits and most of its chatter from the environment only, so `connect` sets those variables once,
and never over a value the user has set.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lab.core.errors import ConfigError, MissingToolError, TrackingError
from lab.core.progress import say

DEFAULT_URI = "sqlite:///mlflow.db"
ARTIFACTS_FOLDER = "mlartifacts"
SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")
CHECK_TIMEOUT_S = 3.0

# No retries and short waits, because the uploader retries by itself and a finished run must not wait for a dead server.
# The telemetry of MLflow would send usage data out of a lab that is meant to be self-hosted.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
TIMEOUT_VARIABLE = "MLFLOW_HTTP_REQUEST_TIMEOUT"
REQUEST_TIMEOUT_S = 10
NOISY_LOGGERS = ("alembic", "mlflow.store.db.utils", "mlflow.store.model_registry.abstract_store")

# Error codes of requests that fail however often they are sent. Everything else may pass on another day.
REFUSALS = frozenset(
    {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE",
     "NOT_IMPLEMENTED", "ENDPOINT_NOT_FOUND", "FEATURE_DISABLED"}
)  # fmt: skip


def resolve_uri(configured: str | None) -> str:
    """The tracking URI in force: MLFLOW_TRACKING_URI, else the configured one, else mlflow.db in the working folder.

    A relative SQLite path becomes absolute, so that a later upload from another folder finds the same database.

    Raises:
        ConfigError: the scheme is not one of MLflow's servers and databases.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or configured or DEFAULT_URI
    scheme = urlsplit(uri).scheme.split("+")[0] or uri
    if scheme not in SCHEMES:
        raise ConfigError(
            f"the tracking URI '{uri}' cannot be used",
            got=f"scheme '{scheme}'",
            expected=", ".join(SCHEMES),
            hint="http://HOST:5000 for a server, sqlite:///mlflow.db for a file (MLFLOW_TRACKING_URI, tracking.uri)",
        )
    database = sqlite_path(uri)
    return f"sqlite:///{database}" if database else uri


def sqlite_path(uri: str) -> Path | None:
    """The absolute path of a SQLite URI's file; None for other URIs."""
    prefix, _, name = uri.partition(":///")
    return Path(name).absolute() if prefix.split("+")[0] == "sqlite" else None


def is_http(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def check_reachable(uri: str, timeout_s: float = CHECK_TIMEOUT_S) -> None:
    """Ask an HTTP server whether it is there; returns within `timeout_s` whatever the network does.

    Raises:
        TrackingError: no connection, no answer in time, or a 5xx answer.
    """
    if not is_http(uri):
        return
    outcome: list[str] = []
    # Name resolution has no timeout of its own, hence a thread that can be left behind.
    thread = threading.Thread(target=lambda: outcome.append(_ask(uri, timeout_s)), daemon=True, name="tracking-check")
    thread.start()
    thread.join(timeout_s)
    problem = outcome[0] if outcome else f"no answer within {timeout_s:g} s"
    if problem:
        raise TrackingError(f"the tracking server {uri} cannot be reached", got=problem)


def _ask(uri: str, timeout_s: float) -> str:
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    try:
        answer = http_request(
            get_default_host_creds(uri), "/health", "GET", max_retries=0, timeout=timeout_s, raise_on_status=False
        )
    except Exception as error:  # noqa: BLE001 whatever stops the question is the answer to it
        return _reason(error)
    return f"HTTP {answer.status_code}" if answer.status_code >= 500 else ""


def _reason(error: Exception) -> str:
    """The innermost cause, without the nesting of urllib3's messages."""
    text = str(error)
    match = re.search(r"\[Errno -?\d+\] ([^'\")]+)", text)
    return match.group(1) if match else text.splitlines()[0][:200]


def describe(error: Exception) -> str:
    """One line for a person: why something could not be sent."""
    if isinstance(error, TrackingError):
        return f"{error.what} ({error.got})" if error.got else error.what
    if isinstance(error, MissingToolError):
        return error.what
    return _reason(error) or type(error).__name__


def prepare(request_timeout_s: int = REQUEST_TIMEOUT_S) -> None:
    """Import MLflow quietly and with bounded waits.

    Raises:
        MissingToolError: MLflow is not installed.
    """
    for name, value in (ENVIRONMENT | {TIMEOUT_VARIABLE: str(request_timeout_s)}).items():
        os.environ.setdefault(name, value)
    try:
        import mlflow  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingToolError(
            "MLflow is not installed here",
            got=str(error),
            hint="make setup, or pip install -c constraints.txt '.[track]', or tracking.enabled=false",
        ) from error
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


def connect(uri: str, request_timeout_s: int = REQUEST_TIMEOUT_S) -> Any:
    """An MlflowClient for `uri`, after a short check that it answers.

    Raises:
        MissingToolError: MLflow is not installed.
        TrackingError: the server does not answer.
    """
    prepare(request_timeout_s)
    from mlflow import MlflowClient

    check_reachable(uri)
    database = sqlite_path(uri)
    if database is not None:
        if not database.exists():
            say(f"creating the tracking database {database} (once, a few seconds) ...")
        database.parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def is_refusal(error: Exception) -> bool:
    """Whether the server understood and declined, so that sending the same again is useless."""
    return getattr(error, "error_code", None) in REFUSALS


def artifact_location(uri: str, experiment: str) -> str | None:
    """Where a new experiment's files go: beside a SQLite database; elsewhere the server decides."""
    database = sqlite_path(uri)
    if database is None:
        return None
    return str(database.parent / ARTIFACTS_FOLDER / re.sub(r"[^\w.-]+", "_", experiment))
