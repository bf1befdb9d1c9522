"""`lab ui`."""

from __future__ import annotations

import subprocess
from typing import Annotated

import typer


def command(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 5000,
    uri: Annotated[
        str | None, typer.Option(help="Tracking database; default: MLFLOW_TRACKING_URI or ./mlflow.db.")
    ] = None,
) -> None:
    """Open the MLflow UI on this machine's runs: curves, plots, compare view, model registry."""
    from lab.tracking.ui import ui_command

    command_line = ui_command(uri, port=port)
    print(f"MLflow UI: http://127.0.0.1:{port}   (half a minute to start; Ctrl-C ends it)", flush=True)
    raise typer.Exit(subprocess.run(command_line, check=False).returncode)
