"""Results for people (rich) or for machines (`--json`): one function decides."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lab.core.progress import set_quiet

if TYPE_CHECKING:
    from rich.table import Table

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, nothing else.")]
RunsDir = Annotated[str, typer.Option("--runs-dir", envvar="LAB_RUNS", help="Folder that holds the runs.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; default: every core.")]


def quiet_if(as_json: bool) -> None:
    """Machines get no bars and no status lines."""
    set_quiet(as_json)


def emit(result: dict[str, Any], as_json: bool, render: Callable[[], None]) -> None:
    """Print `result` as JSON, or call `render`."""
    if as_json:
        print(json.dumps(result, ensure_ascii=False, default=str))
    else:
        render()


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; numbers are right-aligned, missing values shown as a dash."""
    from rich.markup import escape
    from rich.table import Table

    grid = Table(title=title, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        numeric = any(isinstance(row[index], int | float) for row in rows)
        grid.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(escape(show(value)) for value in row))
    show_grid(grid)


def show_grid(grid: Table) -> None:
    """Print a finished table: as wide as the terminal, 160 columns where there is none."""
    from rich.console import Console

    console = Console()
    console.print(grid) if console.is_terminal else Console(width=160).print(grid)


def show(value: object) -> str:
    """One value for a person: four significant digits, a dash for nothing."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def megabytes(size_bytes: int | None) -> float | None:
    return None if size_bytes is None else size_bytes / 1e6


def lines(pairs: Sequence[tuple[str, object]]) -> None:
    """Print aligned "name  value" lines."""
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        print(f"{name:<{width}}  {show(value)}")
