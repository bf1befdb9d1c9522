"""The command that shows the tracked runs in a browser."""

from __future__ import annotations

import sys

from lab.core.errors import TrackingError
from lab.tracking.server import ARTIFACTS_FOLDER, is_http, resolve_uri, sqlite_path


def ui_command(uri: str | None = None, *, port: int = 5000, host: str = "127.0.0.1") -> list[str]:
    """Arguments of a process that serves MLflow's UI over the tracking database, at http://host:port.

    Raises:
        TrackingError: `uri` is a server already, so its own address is the UI.
    """
    resolved = resolve_uri(uri)
    if is_http(resolved):
        raise TrackingError(
            "the tracking URI is a server that shows its own UI", got=resolved, hint=f"open {resolved} in a browser"
        )
    database = sqlite_path(resolved)
    artifacts = ["--artifacts-destination", str(database.parent / ARTIFACTS_FOLDER)] if database else []
    return [
        *["env", "MLFLOW_DISABLE_TELEMETRY=true", sys.executable, "-m", "mlflow", "server"],
        *["--backend-store-uri", resolved, *artifacts],
        *["--host", host, "--port", str(port), "--workers", "1"],
    ]
