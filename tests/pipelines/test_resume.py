"""kill -9 in the middle of an epoch, then `lab train --resume`: the weights of an uninterrupted run, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from lab.artifacts.rundir import RunDir
from tests.tiny import tiny_config, write_config

PROGRAM = "from lab.cli.main import main; main()"
DEADLINE_S = 120


def lab(*args: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *args],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    return out


def test_kill_9_and_resume_ends_with_the_same_weights(home: Path, tmp_path: Path) -> None:
    sections = {
        "train": {"epochs": 8, "batch_size": 16, "device": "cpu", "num_threads": 1, "ema_decay": 0.9},
        "checkpoint": {"every_n_steps": 5},  # 12 steps an epoch: most checkpoints are inside one
    }
    config = write_config(tmp_path / "tiny.yaml", tiny_config(home / "data", **sections))
    whole = lab("train", str(config), "name=whole", cwd=tmp_path)
    killed = lab("train", str(config), "name=killed", cwd=tmp_path)
    run = RunDir(tmp_path / "runs" / "classification" / "killed")
    deadline = time.monotonic() + DEADLINE_S
    while not run.checkpoint.is_dir() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate(timeout=DEADLINE_S)
    assert killed.returncode == -signal.SIGKILL
    assert not run.weights.exists(), "it ended before it was killed"
    finish(whole)

    report = json.loads(finish(lab("train", "--resume", "killed", "--json", cwd=tmp_path)))
    assert report["status"] == "finished"
    expected = RunDir(tmp_path / "runs" / "classification" / "whole")
    assert run.weights.read_bytes() == expected.weights.read_bytes()
    assert [_without_times(line) for line in _lines(run)] == [_without_times(line) for line in _lines(expected)]


def _lines(run: RunDir) -> list[dict[str, object]]:
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def _without_times(line: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in line.items() if name not in ("epoch_s", "images_per_s")}
