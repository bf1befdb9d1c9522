"""`lab`: the table of commands, and the one place where errors become exit codes."""

from __future__ import annotations

import json
import os
import sys

import typer

from lab.cli import (
    bench,
    compile,
    data,
    doctor,
    edge,
    endpoints,
    evaluate,
    export,
    predict,
    runs,
    schema,
    serve,
    train,
    transform,
    tune_kernels,
    ui,
)
from lab.core.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    IncompatibleError,
    IntegrityError,
    LabError,
    MissingToolError,
    ParityError,
    StorageError,
    TrackingError,
    TrainingError,
    UnsupportedError,
)

EXIT_CODES: dict[type[LabError], int] = {
    LabError: 1,
    ConfigError: 2,
    DataError: 3,
    ArtifactError: 4,
    IntegrityError: 5,
    IncompatibleError: 6,
    UnsupportedError: 7,
    ParityError: 8,
    MissingToolError: 9,
    StorageError: 10,
    TrackingError: 11,
    TrainingError: 12,
}
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="lab",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help="Train, export, compile, measure and run deep-learning models; every run tracked in MLflow.",
    epilog="Exit codes: " + ", ".join(f"{code} {error.kind}" for error, code in EXIT_CODES.items()) + ".",
)
for module in (train, evaluate, export, compile, bench, predict, transform, serve):
    app.command(module.__name__.rpartition(".")[2])(module.command)
app.add_typer(runs.app, name="runs")
app.add_typer(endpoints.app, name="endpoints")
app.add_typer(data.app, name="data")
app.command("tune-kernels")(tune_kernels.command)
for module in (doctor, edge, schema, ui):
    app.command(module.__name__.rpartition(".")[2])(module.command)


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        from lab import __version__

        print(__version__)
        raise typer.Exit


def exit_code(error: LabError) -> int:
    """The code of the nearest class in the error's tree."""
    return next(EXIT_CODES[base] for base in type(error).__mro__ if base in EXIT_CODES)


def main() -> None:
    """Entry point of the `lab` command."""
    try:
        app()
    except LabError as error:
        _print_error(error)
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader of a pipe went away: `lab runs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_INTERRUPTED)


def _print_error(error: LabError) -> None:
    if "--json" in sys.argv:
        print(json.dumps({"error": error.to_dict()}, ensure_ascii=False))
    else:
        print(f"error: {error.message()}", file=sys.stderr)


if __name__ == "__main__":
    main()
