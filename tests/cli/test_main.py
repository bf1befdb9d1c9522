"""The command line from outside: help, exit codes by kind of error, JSON errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def lab(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    program = "from lab.cli.main import main; main()"
    return subprocess.run([sys.executable, "-c", program, *args], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["train"], 2, "no configuration was given"),
        (["train", "missing.yaml"], 2, "no configuration file"),
        (["train", "bad.yaml"], 2, "unknown key 'train.epoch'; did you mean 'train.epochs'?"),
        (["train", "none.yaml"], 2, "unknown task 'nonesuch'"),
        (["train", "--resume", "latest"], 4, "no run 'latest'"),
        (["export", "x"], 4, "no run 'x'"),
        (["compile", "x", "--target", "x86"], 4, "no run 'x'"),
        (["compile", "--onnx", "no.onnx"], 2, "no ONNX file"),
        (["predict", "nowhere", "a.png"], 4, "manifest.json is missing"),
        (["schema", "nonesuch"], 2, "unknown task"),
        (["nonesuch"], 2, "No such command"),
    ],
)
def test_bad_input_has_its_exit_code_and_message(tmp_path: Path, args: list[str], code: int, message: str) -> None:
    (tmp_path / "bad.yaml").write_text("task: classification\ntrain:\n  epoch: 3\n")
    (tmp_path / "none.yaml").write_text("task: nonesuch\n")
    done = lab(*args, cwd=tmp_path)
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


def test_json_errors_are_json(tmp_path: Path) -> None:
    done = lab("export", "x", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["error"]["kind"] == "artifact"
    assert done.returncode == 4


def test_a_failing_command_leaves_no_files(tmp_path: Path) -> None:
    lab("train", "missing.yaml", cwd=tmp_path)
    lab("export", "x", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_runs_of_an_empty_folder(tmp_path: Path) -> None:
    done = lab("runs", cwd=tmp_path)
    assert done.returncode == 0
    assert "no runs below runs" in done.stdout
    assert json.loads(lab("runs", "--json", cwd=tmp_path).stdout) == {"runs": []}


def test_schema_describes_every_section(tmp_path: Path) -> None:
    schema = json.loads(lab("schema", "classification", cwd=tmp_path).stdout)
    assert schema["additionalProperties"] is False
    assert {"train", "optimizer", "schedule", "data", "model"} <= set(schema["properties"])
    epochs = schema["$defs"]["TrainConfig"]["properties"]["epochs"]
    assert (epochs["type"], epochs["minimum"]) == ("integer", 1)
