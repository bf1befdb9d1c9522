"""`lab edge` puts into a folder what a device needs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lab.cli.main import app
from lab.core.errors import ConfigError


def test_the_folder_holds_a_program_that_runs(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["edge", "-o", str(tmp_path / "edge"), "--json"], catch_exceptions=False)
    told = json.loads(done.stdout)
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "edge").iterdir()}
    assert told["size_bytes"] == sizes
    assert told["total_bytes"] == sum(sizes.values()) < 10e6
    assert set(sizes) == {"lab.h", "lab_run", "liblab.so", "libtvm_ffi.so", "libtvm_runtime.so"}
    help_text = subprocess.run([tmp_path / "edge" / "lab_run", "--help"], capture_output=True, text=True, check=True)
    assert "--output-dir" in help_text.stdout


def test_an_architecture_nobody_built_for_is_refused() -> None:
    with pytest.raises(ConfigError, match="sparc"):
        CliRunner().invoke(app, ["edge", "--arch", "sparc"], catch_exceptions=False)
