"""`lab predict`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lab.cli.output import Threads
from lab.core.errors import ConfigError


def command(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder (or an export folder with ONNX files).")],
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files, folders or patterns.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write JSON Lines here instead of standard output.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", min=1, help="Classification: answers per file; default 5.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Detection: least score of an object that is told.")
    ] = None,
    save_images: Annotated[
        Path | None, typer.Option("--save-images", help="Folder for pictures of the predictions: boxes, masks.")
    ] = None,
    save_responses: Annotated[
        Path | None, typer.Option("--save-responses", help="Folder for the endpoint's response to each file.")
    ] = None,
    accept: Annotated[
        str | None, typer.Option(help="Content type of the responses, e.g. image/png for a segmentation mask.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", metavar="NAME=VALUE", help="Any other option of the task, e.g. beam_size=5; repeatable."
        ),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Inputs run at a time.")] = 16,
    threads: Threads = None,
) -> None:
    """Predict on files; one JSON record per input. A broken one becomes an error record and the rest goes on.

    Exit code 3 when any input failed, after all others were done.
    """
    from lab.artifacts.files import atomic_path
    from lab.pipelines.predict import Saving, predict
    from lab.runtime.tvm_runner import use_runtime_library_only

    use_runtime_library_only()
    num_errors = 0
    options = {"top_k": top_k, "threshold": threshold} | _parsed(option or [])
    save = Saving(save_images, save_responses, accept)
    stream = predict(bundle, paths, batch_size=batch, options=options, save=save, num_threads=threads)
    if output is None:
        for record in stream:
            num_errors += "error" in record
            print(json.dumps(record, ensure_ascii=False), flush=True)
    else:
        with atomic_path(output) as temporary, temporary.open("w", encoding="utf-8") as file:
            for record in stream:
                num_errors += "error" in record
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
    if num_errors:
        print(
            f"{num_errors} input{'s' if num_errors > 1 else ''} could not be read; see the error records",
            file=sys.stderr,
        )
        raise typer.Exit(3)


def _parsed(texts: list[str]) -> dict[str, Any]:
    """NAME=VALUE, the value read as JSON where it is any, else as text. Raises ConfigError."""
    options: dict[str, Any] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not name or not separator:
            raise ConfigError(f"--option {text} is malformed", expected="NAME=VALUE, e.g. beam_size=5")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options
