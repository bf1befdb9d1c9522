"""`lab edge`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from lab.cli.output import JsonFlag, emit, lines, quiet_if
from lab.core import host
from lab.core.errors import ConfigError


def command(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to fill.")] = Path("edge"),
    arch: Annotated[str | None, typer.Option("--arch", help="x86_64 or aarch64; default: this machine's.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Build what a device needs to run bundles: lab_run, liblab.so with its C header, and TVM's runtime."""
    quiet_if(as_json)
    from lab.artifacts.files import storage_errors
    from lab.runtime.edge_build import build_edge
    from lab.runtime.toolchain import COMPILERS

    wanted = arch or host.cpu_arch()
    if wanted not in COMPILERS:
        raise ConfigError(
            "the edge runtime is not built for this architecture", got=wanted, expected=" or ".join(COMPILERS)
        )
    built = build_edge(wanted)
    sizes = {path.name: path.stat().st_size for path in sorted(built.iterdir())}
    with storage_errors("writing the edge runtime", output):
        output.mkdir(parents=True, exist_ok=True)
        for name in sizes:
            shutil.copy2(built / name, output / name)
    total = sum(sizes.values())
    emit(
        {"folder": str(output), "arch": wanted, "size_bytes": sizes, "total_bytes": total},
        as_json,
        lambda: lines(
            [("folder", output), ("architecture", wanted), *((f"{n} MB", s / 1e6) for n, s in sizes.items()),
             ("in all MB", total / 1e6)]
        ),
    )  # fmt: skip
