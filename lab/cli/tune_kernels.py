"""`lab tune-kernels`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lab.cli.compile import BatchOption, ShapeOption, not_both, parse_shapes
from lab.cli.output import JsonFlag, RunsDir, emit, lines, quiet_if, table

if TYPE_CHECKING:
    from lab.pipelines.tune_report import TuneReport


def command(
    run: Annotated[str | None, typer.Argument(help="Run: folder, name or 'latest'.")] = None,
    target: Annotated[
        str, typer.Option("--target", "-t", help="x86, x86:MCPU, arm:CORE, cuda: a machine that runs here, or a board.")
    ] = "x86",
    onnx: Annotated[Path | None, typer.Option("--onnx", help="Tune for this ONNX file instead of a run.")] = None,
    batch: BatchOption = None,
    shape: ShapeOption = None,
    precision: Annotated[str, typer.Option("--precision", help="float32, float16, int8, as for compile.")] = "float32",
    kernels: Annotated[
        str, typer.Option("--kernels", metavar="PATTERN", help="Only kernels of this name, e.g. '*conv2d*'.")
    ] = "*",
    budget: Annotated[
        float | None, typer.Option("--budget", min=1, help="Seconds; the next run continues where this one ends.")
    ] = None,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Most candidates measured per kernel.")] = 64,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, help="CPU threads; compile with the same number. Default: 2 on x86."),
    ] = None,
    records: Annotated[
        Path | None,
        typer.Option("--records", help="File of records to add to. Default: ~/.cache/lab/tuning/CPU.jsonl."),
    ] = None,
    rpc: Annotated[
        str | None,
        typer.Option("--rpc", metavar="HOST:PORT[:KEY]", help="Measure on a board that runs tvm.exec.rpc_server."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Tune again what there are records of.")] = False,
    runs_dir: RunsDir = "runs",
    as_json: JsonFlag = False,
) -> None:
    """Measure other kernel parameters than the rules derive; keep records of the faster ones for lab compile.

    The most expensive kernels come first. Each candidate is built alone, compared with the untuned kernel's outputs and
    timed in turns with it, in a process of its own. A record is kept where the gain is clear of the noise. Stop it at
    any time: what is done is done, and the same command continues. lab compile uses the records by itself.
    """
    quiet_if(as_json)
    from lab.pipelines.context import OpenRun
    from lab.pipelines.tune_kernels import TuneOptions, tune_file, tune_run

    options = TuneOptions(
        batch_sizes=tuple(sorted(set(batch or [1]))),
        input_shapes=parse_shapes(shape or []),
        precision=precision,
        pattern=kernels,
        budget_s=budget,
        max_trials=trials,
        num_threads=threads,
        records_path=records,
        rpc=rpc,
        force=force,
    )
    not_both(run is not None and onnx is not None, "a run and --onnx")
    if onnx is not None:
        report = tune_file(onnx, target, options)
    else:
        report = tune_run(OpenRun.find(run or "latest", Path(runs_dir)), target, options)
    emit(report.to_dict(), as_json, lambda: _render(report))


def _render(report: TuneReport) -> None:
    rows = sorted(report.rows, key=lambda row: -(row.default_ms or 0.0) * row.num_calls)
    table(
        f"kernels of {report.target}",
        ("kernel", "rule", "calls", "default ms", "tuned ms", "gain", "trials", "status", "choice"),
        [
            (
                row.kernel, row.rule, row.num_calls, row.default_ms, row.tuned_ms, row.gain if row.choice else None,
                row.num_trials, row.status, _choice(dict(row.choice or {})),
            )
            for row in rows
        ],
    )  # fmt: skip
    counts = {status: sum(row.status == status for row in rows) for status in dict.fromkeys(r.status for r in rows)}
    lines(
        [
            ("records", report.path),
            ("kernels", ", ".join(f"{count} {status}" for status, count in counts.items()) or "none has a choice"),
        ]
    )


def _choice(parameters: dict[str, object]) -> str:
    parts = []
    for name, value in parameters.items():
        if isinstance(value, dict):
            parts.append(f"{name} ({_choice(value)})")
        else:
            parts.append(f"{name} {'x'.join(map(str, value)) if isinstance(value, list) else value}")
    return ", ".join(parts)
