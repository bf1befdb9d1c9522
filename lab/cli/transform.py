"""`lab transform`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lab.cli.output import Threads
from lab.core.errors import ConfigError

Split = Literal["auto", "none", "line", "recordio"]
_SPLITS = {"none": "None", "line": "Line", "recordio": "RecordIO"}


def command(
    model: Annotated[str, typer.Argument(help="Bundle or export folder, or the http:// address of an endpoint.")],
    inputs: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files and folders.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the answers: <file>.out each.")],
    content_type: Annotated[str, typer.Option("--content-type", help="Of the input.")] = "application/json",
    accept: Annotated[str, typer.Option(help="Content type of the answers; default: the model's own.")] = "",
    split: Annotated[Split, typer.Option(help="A file's records; auto: as the content type suggests.")] = "auto",
    strategy: Annotated[
        Literal["multi", "single"], typer.Option(help="As many records per request as fit, or one.")
    ] = "multi",
    assemble: Annotated[
        Literal["auto", "none", "line"], typer.Option(help="What stands between answers; auto: as --accept suggests.")
    ] = "auto",
    max_payload_mb: Annotated[int, typer.Option("--max-payload-mb", min=0, max=100, help="0: no limit.")] = 6,
    concurrent: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 1,
    retries: Annotated[int, typer.Option(min=0, max=3, help="After failures of a remote endpoint.")] = 3,
    timeout_s: Annotated[int, typer.Option("--timeout-s", min=1, max=3600, help="Of a remote request.")] = 600,
    input_filter: Annotated[str, typer.Option("--input-filter", help="What of a record the model gets: $[1:]")] = "$",
    output_filter: Annotated[str, typer.Option("--output-filter", help="What of the result is written.")] = "$",
    join: Annotated[bool, typer.Option("--join", help="Write each answer beside its record.")] = False,
    gzip: Annotated[bool, typer.Option("--gzip", help="The input files are compressed.")] = False,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", exists=True, dir_okay=False, help="Bearer token of the endpoint.")
    ] = None,
    threads: Threads = None,
) -> None:
    """Run files through a model's request handlers (SageMaker's batch transform), one output per file.

    A file with a bad record has no output and the others go on; exit code 3 then.
    """
    options = {
        "content_type": content_type, "accept": accept, "max_payload_mb": max_payload_mb,
        "max_concurrent_transforms": concurrent, "max_retries": retries, "timeout_s": timeout_s,
        "input_filter": input_filter, "output_filter": output_filter, "join_source": "Input" if join else "None",
        "compression": "Gzip" if gzip else "None", "batch_strategy": f"{strategy.capitalize()}Record",
    }  # fmt: skip
    results = _run(model, inputs, output, options, (split, assemble), token_file, threads)
    failed = 0
    for result in results:
        failed += bool(result["error"])
        print(json.dumps(result, ensure_ascii=False), flush=True)
    if failed:
        print(f"{failed} file{'s' if failed > 1 else ''} failed; the outputs of the others are kept", file=sys.stderr)
        raise typer.Exit(3)


def _run(
    model: str, inputs: list[Path], output: Path, options: dict[str, Any], chosen: tuple[str, str],
    token_file: Path | None, threads: int | None,
) -> Any:  # fmt: skip
    """A record per file, as it is done."""
    from dataclasses import asdict

    from lab.core.host import num_cores
    from lab.serve.transform.local import LocalModel
    from lab.serve.transform.remote import RemoteModel
    from lab.serve.transform.run import find_sources, transform

    config = _config(options, *chosen)
    sources = find_sources(inputs)
    remote = model.startswith(("http://", "https://"))
    token = token_file.read_text().strip() if token_file else None
    num_threads = threads or max(1, num_cores() // config.max_concurrent_transforms)
    call = RemoteModel(model, config, token) if remote else LocalModel(Path(model), config, num_threads)
    try:
        for result in transform(sources, output, config, call):
            record = asdict(result)
            yield record | {key: str(record[key]) if record[key] else None for key in ("source", "output")}
    finally:
        if isinstance(call, LocalModel):
            call.close()


def _config(options: dict[str, Any], split: str, assemble: str) -> Any:
    """Raises ConfigError when the options do not fit together."""
    from pydantic import ValidationError

    from lab.serve.transform.config import TransformConfig, recommended_assembly, recommended_split

    split_type = recommended_split(options["content_type"]) if split == "auto" else _SPLITS[split]
    between = recommended_assembly(options["accept"]) if assemble == "auto" else assemble.capitalize()
    try:
        return TransformConfig.model_validate(options | {"split_type": split_type, "assemble_with": between})
    except ValidationError as error:
        told = "; ".join(one["msg"].removeprefix("Value error, ") for one in error.errors())
        raise ConfigError("these options do not fit together", got=told) from error
