"""`lab compile`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lab.cli.output import JsonFlag, RunsDir, emit, lines, quiet_if, show_grid
from lab.core.errors import ConfigError

if TYPE_CHECKING:
    from lab.pipelines.compile import CompileReport


BatchOption = Annotated[list[int] | None, typer.Option("--batch", min=1, help="Batch size to compile for; repeatable.")]
ShapeOption = Annotated[
    list[str] | None, typer.Option("--shape", metavar="NAME=1,3,224,224", help="Fix a dynamic input's shape.")
]


def command(
    run: Annotated[str | None, typer.Argument(help="Run: folder, name or 'latest'.")] = None,
    target: Annotated[
        str,
        typer.Option(
            "--target", "-t", help="x86, x86:MCPU, x86:MCPU,MCPU (both in one bundle), arm, arm:CORE, cuda, cuda:sm_NN."
        ),
    ] = "x86",
    onnx: Annotated[Path | None, typer.Option("--onnx", help="Compile this ONNX file instead of a run.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Bundle folder, with --onnx.")] = None,
    batch: BatchOption = None,
    shape: ShapeOption = None,
    samples: Annotated[int | None, typer.Option("--samples", min=1, help="Samples of the parity check.")] = None,
    tolerance: Annotated[float | None, typer.Option("--tolerance", help="Largest absolute error that passes.")] = None,
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            help="float32; float16 (cuda: tensor cores, sums in 32 bits); int8 (x86 with VNNI: calibrated on the run's "
            "validation data, refused where the metric loses more than quantize.max_loss).",
        ),
    ] = "float32",
    partial: Annotated[
        bool,
        typer.Option(
            "--partial", help="Let ONNX Runtime run operators that cannot be compiled, in the same bundle (x86)."
        ),
    ] = False,
    dump_ir: Annotated[
        Path | None, typer.Option("--dump-ir", help="Write the IR after each phase into this folder.")
    ] = None,
    kernels: Annotated[bool, typer.Option("--kernels", help="Print every kernel with its schedule.")] = False,
    html: Annotated[
        bool, typer.Option("--report", help="Time every kernel; write report.html: roofline, layouts, memory, phases.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="CPU threads the model will run with; default: the target's.")
    ] = None,
    records: Annotated[
        Path | None,
        typer.Option("--tuning-records", help="File of lab tune-kernels; it counts before shipped and own records."),
    ] = None,
    no_records: Annotated[
        bool, typer.Option("--no-tuning-records", help="Let rules decide everything, whatever was measured.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Compile again although nothing changed.")] = False,
    runs_dir: RunsDir = "runs",
    as_json: JsonFlag = False,
) -> None:
    """Compile a run or any ONNX file with TVM into a bundle for one target, and compare it with ONNX Runtime."""
    quiet_if(as_json)
    from lab.pipelines.compile import compile_file, compile_run
    from lab.pipelines.compile_source import CompileOptions
    from lab.pipelines.context import OpenRun

    not_both(run is not None and onnx is not None, "a run and --onnx")
    not_both(records is not None and no_records, "--tuning-records and --no-tuning-records")
    options = CompileOptions(
        batch_sizes=tuple(sorted(set(batch or [1]))),
        input_shapes=parse_shapes(shape or []),
        num_samples=samples,
        tolerance=tolerance,
        dump_dir=dump_ir,
        force=force,
        precision=precision,
        partial=partial,
        report=html,
        num_threads=threads,
        records_path=records,
        use_records=not no_records,
    )
    if onnx is not None:
        report = compile_file(onnx, target, output, options)
    else:
        report = compile_run(OpenRun.find(run or "latest", Path(runs_dir)), target, options)
    emit(report.to_dict(), as_json, lambda: _render(report, kernels))


def not_both(given: bool, names: str) -> None:
    if given:
        raise ConfigError(f"both {names} were given", expected="one of them")


def parse_shapes(texts: list[str]) -> dict[str, list[int]]:
    shapes: dict[str, list[int]] = {}
    for text in texts:
        name, separator, dims = text.rpartition("=")
        try:
            shapes[name] = [int(dim) for dim in dims.replace("x", ",").split(",")]
        except ValueError:
            separator = ""
        if not separator or not name:
            raise ConfigError(f"--shape {text} is malformed", expected="NAME=1,3,224,224")
    return shapes


def _render(report: CompileReport, kernels: bool) -> None:
    manifest, rows = report.manifest, report.kernels["kernels"]
    naive = [row["kernel"] for row in rows if row["schedule"] == "naive"]
    if kernels:
        from lab.compile.report import KernelReport, render

        show_grid(render(KernelReport.from_dict(report.kernels)))
    size = sum(manifest.files[name]["size_bytes"] for entry in manifest.entries for name in entry.files)
    assert manifest.target is not None
    parity = [(f"parity {r.name}", _parity(r.status, r.reference, r.num_samples, r.reason)) for r in manifest.parity]
    last = manifest.parity[-1]
    from lab.pipelines.compile_parts import describe_parts

    page = [("report", report.folder / "report.html")] if "report.html" in manifest.files else []
    lines(
        [
            ("bundle", report.folder),
            *page,
            (
                "target",
                f"{manifest.target.name}  {manifest.target.triple} {manifest.target.mcpu}{manifest.target.cuda_arch}",
            ),
            ("libraries MB", size / 1e6),
            ("compile s", manifest.durations_s["compile"]),
            ("kernels", f"{len(rows)}, naive: {len(naive)}" + (f" ({', '.join(naive)})" if naive else "")),
            *([("tuned kernels", len(manifest.tuned_kernels))] if manifest.tuned_kernels else []),
            *describe_parts(manifest),
            *parity,
            ("max abs error", last.max_abs_error),
            ("same answer", last.agreement),
            *(
                (f"{last.name} {name}", value)
                for name, value in manifest.metrics.get(last.name, {}).items()
                if not name.endswith("_share")
            ),
        ]
    )


def _parity(status: str, reference: str, num_samples: int, reason: str) -> str:
    return (
        f"{status} vs {reference}"
        + (f", {num_samples} samples" if num_samples else "")
        + (f": {reason}" if reason else "")
    )
