"""`lab endpoints`: list, sync."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lab.cli.output import JsonFlag, emit, quiet_if, table

app = typer.Typer(
    help="List endpoints that were served from here; tell MLflow of their traffic and decisions.",
    invoke_without_command=True,
)
StateDir = Annotated[str, typer.Option("--state-dir", help="log.state_dir of the endpoints' configurations.")]


@app.callback()
def root(context: typer.Context, state_dir: StateDir = "runs/endpoints", as_json: JsonFlag = False) -> None:
    """List endpoints that were served from here; tell MLflow of their traffic and decisions."""
    if context.invoked_subcommand is None:
        from lab.pipelines.endpoints import overview

        found = overview(Path(state_dir))
        emit({"endpoints": found}, as_json, lambda: _list(found, state_dir))


def _list(found: list[dict[str, Any]], state_dir: str) -> None:
    if not found:
        print(f"no endpoint was served from {state_dir}; lab serve CONFIG serves one")
        return
    table("endpoints", list(found[0]), [list(row.values()) for row in found])


@app.command()
def sync(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Default: all.")] = None,
    state_dir: StateDir = "runs/endpoints",
    uri: Annotated[
        str | None,
        typer.Option(help="MLflow server or database, where not the configuration's; MLFLOW_TRACKING_URI wins."),
    ] = None,
    experiment: Annotated[str | None, typer.Option(help="Experiment, where not the configuration's.")] = None,
    watch_s: Annotated[
        float | None, typer.Option("--watch", min=1, help="Seconds between two uploads, while NAME is served.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Tell MLflow what it does not know yet: a run per endpoint, a child per variant, decisions, aliases.

    Repeating it changes nothing, and what a server missed while it was down is told later.
    """
    from lab.core.errors import ConfigError
    from lab.pipelines import endpoints

    if watch_s is not None:
        if not names or len(names) != 1:
            raise ConfigError(
                "--watch follows one endpoint", got=names or "no name", expected="lab endpoints sync NAME"
            )
        endpoints.follow(Path(state_dir), names[0], watch_s, uri, experiment)
        return
    quiet_if(as_json)
    results = [endpoints.sync(log, uri, experiment) for log in endpoints.find(Path(state_dir), names or ())]
    columns = ["endpoint", "outcome", "num_samples", "num_decisions", "run_id", "reason"]
    rows = [[getattr(result, column) for column in columns] for result in results]
    emit(
        {"synced": [dict(zip(columns, row, strict=True)) for row in rows]},
        as_json,
        lambda: table("told to MLflow", columns, rows) if rows else print(f"no endpoint was served from {state_dir}"),
    )
    if any(result.outcome == "failed" for result in results):
        raise typer.Exit(11)
