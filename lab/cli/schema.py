"""`lab schema`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def command(
    task: Annotated[str, typer.Argument(help="Task whose configuration is described.")] = "classification",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")] = None,
) -> None:
    """Print the JSON schema of a task's configuration, for completion and checks in editors."""
    from lab.artifacts.files import write_text
    from lab.tasks import CONFIGS

    text = json.dumps(CONFIGS[task].model_json_schema(), indent=2, ensure_ascii=False)
    if output is None:
        print(text)
    else:
        write_text(output, text + "\n")
        print(output)
