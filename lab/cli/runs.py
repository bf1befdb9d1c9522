"""`lab runs`: list, show, sync."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lab.cli.output import JsonFlag, RunsDir, emit, lines, quiet_if, table

app = typer.Typer(
    help="List the runs on disk, show one, upload what a tracking server missed.", invoke_without_command=True
)


@app.callback()
def root(
    context: typer.Context,
    task: Annotated[str | None, typer.Option(help="Only this task.")] = None,
    runs_dir: RunsDir = "runs",
    as_json: JsonFlag = False,
) -> None:
    """List the runs on disk, show one, upload what a tracking server missed."""
    if context.invoked_subcommand is None:
        from lab.pipelines.runs import overview

        found = overview(Path(runs_dir), task)
        emit({"runs": found}, as_json, lambda: _list(found, runs_dir))


def _list(found: list[dict[str, Any]], runs_dir: str) -> None:
    if not found:
        print(f"no runs below {runs_dir}; lab train CONFIG makes one")
        return
    columns = ["name", "task", "status", "started", "metrics", "bundles"]
    rows = [
        [row["name"], row["task"], row["status"], row["started"], _metrics(row["metrics"]), " ".join(row["bundles"])]
        for row in found
    ]
    table("runs", columns, rows)
    if num_waiting := sum(bool(row["to_upload"]) for row in found):
        print(f"{num_waiting} of them hold something a tracking server missed: lab runs sync")


def _metrics(metrics: dict[str, float]) -> str:
    chosen = {name: value for name, value in metrics.items() if name.startswith("test/")} or metrics
    return "  ".join(f"{name}={value:.4g}" for name, value in list(chosen.items())[:3])


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="Run: folder, name or 'latest'.")],
    runs_dir: RunsDir = "runs",
    as_json: JsonFlag = False,
) -> None:
    """Show one run: status, metrics, files."""
    from lab.pipelines.runs import detail

    found = detail(run, Path(runs_dir))
    simple = [(name, value) for name, value in found.items() if not isinstance(value, dict | list)]
    emit(
        found, as_json, lambda: lines([*simple, *found["metrics"].items(), ("files", "\n       ".join(found["files"]))])
    )


@app.command()
def sync(
    runs_dir: RunsDir = "runs",
    as_json: JsonFlag = False,
) -> None:
    """Upload to the tracking server what it missed while it was down."""
    quiet_if(as_json)
    from lab.tracking.sync import sync_runs

    results = [result for result in sync_runs(Path(runs_dir)) if result.outcome != "complete"]
    columns = ["run_name", "outcome", "num_sent", "num_refused", "reason"]
    rows = [[getattr(result, column) for column in columns] for result in results]
    emit(
        {"synced": [dict(zip(columns, row, strict=True)) for row in rows]},
        as_json,
        lambda: table("uploaded", columns, rows) if rows else print("nothing to upload: the server has everything"),
    )
    if any(result.outcome == "failed" for result in results):
        raise typer.Exit(11)
