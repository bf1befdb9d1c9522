"""`lab evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lab.cli.output import JsonFlag, RunsDir, Threads, emit, lines, quiet_if


def command(
    model: Annotated[
        str, typer.Argument(metavar="RUN|EXPORT|BUNDLE", help="Run (folder, name, 'latest') or a folder inside one.")
    ],
    split: Annotated[Literal["validation", "test"] | None, typer.Option(help="Default: test, else validation.")] = None,
    threads: Threads = None,
    runs_dir: RunsDir = "runs",
    as_json: JsonFlag = False,
) -> None:
    """Score a trained run, its ONNX model or one of its bundles on the run's data."""
    quiet_if(as_json)
    from lab.pipelines.evaluate import evaluate

    report = evaluate(model, Path(runs_dir), split=split, num_threads=threads)
    rows: list[tuple[str, object]] = [("model", report.model), ("split", report.split), ("samples", report.num_samples)]
    emit(report.to_dict(), as_json, lambda: lines([*rows, *report.metrics.items()]))
