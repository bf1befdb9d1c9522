"""`lab bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lab.cli.output import JsonFlag, RunsDir, Threads, emit, megabytes, quiet_if, table

if TYPE_CHECKING:
    from lab.pipelines.bench import BenchReport


def command(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Runs: folder, name or 'latest'.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Batch size.")] = 1,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Interleaved rounds; medians need some.")] = 15,
    samples: Annotated[
        int | None, typer.Option("--samples", min=1, help="Test samples for accuracy; default all.")
    ] = None,
    engine: Annotated[
        list[str] | None, typer.Option("--engine", help="Only this engine, e.g. 'tvm x86'; repeatable.")
    ] = None,
    threads: Threads = None,
    runs_dir: RunsDir = "runs",
    as_json: JsonFlag = False,
) -> None:
    """Measure PyTorch, torch.compile, ONNX Runtime, OpenVINO and every TVM bundle side by side."""
    quiet_if(as_json)
    from lab.pipelines.bench import BenchOptions, bench
    from lab.pipelines.context import OpenRun

    opened = [OpenRun.find(run, Path(runs_dir)) for run in (runs or ["latest"])]
    options = BenchOptions(
        batch_size=batch,
        rounds=rounds,
        num_threads=threads,
        num_samples=samples,
        engines=tuple(engine) if engine else None,
    )
    report = bench(opened, options)
    emit(report.to_dict(), as_json, lambda: _render(report))


def _render(report: BenchReport) -> None:
    columns = [
        "run",
        "engine",
        "p50 ms",
        "p95 ms",
        "items/s",
        "threads",
        "level",
        "file MB",
        "peak MB",
        report.metric,
        "max abs err",
        "note",
    ]
    rows = [
        [
            row.run,
            row.engine,
            row.p50_ms,
            row.p95_ms,
            row.throughput_per_s,
            row.num_threads,
            row.level,
            megabytes(row.size_bytes),
            row.peak_memory_mb,
            row.metric,
            row.max_abs_error,
            row.note,
        ]
        for row in report.rows
    ]
    table(f"batch {report.batch_size}, {report.machine}", columns, rows)
    for file in report.files:
        print(file)
