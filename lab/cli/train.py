"""`lab train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lab.cli.output import JsonFlag, RunsDir, emit, lines, quiet_if
from lab.core.errors import ConfigError
from lab.core.host import share_cores

if TYPE_CHECKING:
    from lab.pipelines.train import TrainReport


def command(
    config: Annotated[
        Path | None, typer.Argument(help="Configuration file, e.g. configs/classification/smoke.yaml.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="E.g. train.epochs=3.")
    ] = None,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="RUN", help="Go on with a run (folder, name or 'latest').")
    ] = None,
    runs_dir: RunsDir = "runs",
    as_json: JsonFlag = False,
) -> None:
    """Train a model from a configuration; track it in MLflow; evaluate it; draw its plots."""
    quiet_if(as_json)
    share_cores()
    from lab.pipelines import train

    if resume is not None:
        if config is not None:
            raise ConfigError("--resume takes the run's own configuration", got=str(config), expected="no CONFIG")
        report = train.resume(resume, Path(runs_dir))
    elif config is None:
        raise ConfigError("no configuration was given", expected="lab train CONFIG, or lab train --resume RUN")
    else:
        from lab.pipelines.context import load_config

        report = train.start(load_config(config, [f"runs_dir={runs_dir}", *(overrides or [])]))
    if report.leads:
        emit(report.to_dict(), as_json, lambda: _render(report))
    if report.status == "killed":
        raise typer.Exit(130)


def _render(report: TrainReport) -> None:
    run = report.run.path
    scores = [(name, value) for name, value in report.metrics.items()]
    print()
    lines(
        [
            ("status", report.status),
            *scores,
            ("epochs", report.num_epochs),
            ("images/s", report.images_per_s),
            *((f"{name} s", value) for name, value in report.durations_s.items()),
            ("run", run),
            ("plots", report.run.plots),
            ("tracked in", report.tracking),
        ]
    )
    if report.status == "killed":
        print(f"\nNext:  lab train --resume {run}")
    else:
        print(f"\nNext:  make ui   |   lab compile {run} --target x86   |   lab bench {run}")
