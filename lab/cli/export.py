"""`lab export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lab.cli.output import JsonFlag, RunsDir, emit, lines, quiet_if


def command(
    run: Annotated[str, typer.Argument(help="Run: folder, name or 'latest'.")] = "latest",
    force: Annotated[bool, typer.Option("--force", help="Export again although nothing changed.")] = False,
    runs_dir: RunsDir = "runs",
    as_json: JsonFlag = False,
) -> None:
    """Export a trained run to ONNX with a dynamic batch, checked against PyTorch at two batch sizes."""
    quiet_if(as_json)
    from lab.pipelines.context import OpenRun
    from lab.pipelines.export import export, onnx_bytes

    report = export(OpenRun.find(run, Path(runs_dir)), force=force)
    rung = report.manifest.parity[0]
    emit(
        report.to_dict(),
        as_json,
        lambda: lines(
            [
                *(("onnx", path) for path in report.files().values()),
                ("size MB", onnx_bytes(report.manifest) / 1e6),
                ("parity", f"{rung.status}: {rung.name} vs {rung.reference}, {rung.num_samples} samples"),
                ("max abs error", rung.max_abs_error),
                ("same answer", rung.agreement),
            ]
        ),
    )
