from __future__ import annotations

from pathlib import Path

import pytest

from lab.artifacts.rundir import RunDir, find_run, list_runs, new_run_dir
from lab.core.errors import ArtifactError


def make(root: Path, task: str, name: str, started: str) -> RunDir:
    run = new_run_dir(root, task, name)
    run.update_status(status="finished", started=started)
    return run


def test_a_taken_name_gets_a_number(tmp_path: Path) -> None:
    names = [new_run_dir(tmp_path, "t", "a").name for _ in range(3)]
    assert names == ["a", "a-2", "a-3"]


def test_found_by_folder_name_task_and_latest(tmp_path: Path) -> None:
    old = make(tmp_path, "t", "a", "2026-01-01T00:00:00Z")
    new = make(tmp_path, "u", "b", "2026-01-02T00:00:00Z")
    assert list_runs(tmp_path) == [old, new]
    assert find_run("latest", tmp_path) == new
    assert find_run("latest", tmp_path, "t") == old
    assert find_run("a", tmp_path) == old
    assert find_run("u/b", tmp_path) == new
    assert find_run(str(old.path), tmp_path) == old


def test_not_found_lists_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no run 'x'") as caught:
        find_run("x", tmp_path)
    assert "none" in str(caught.value.expected)
    make(tmp_path, "t", "fashion", "2026-01-01T00:00:00Z")
    with pytest.raises(ArtifactError) as caught:
        find_run("fashon", tmp_path)
    assert caught.value.hint == "did you mean 'fashion'?"


def test_a_name_in_two_tasks_is_ambiguous(tmp_path: Path) -> None:
    make(tmp_path, "t", "a", "1")
    make(tmp_path, "u", "a", "2")
    with pytest.raises(ArtifactError, match="fits 2 runs"):
        find_run("a", tmp_path)


def test_status_is_merged(tmp_path: Path) -> None:
    run = make(tmp_path, "t", "a", "1")
    run.update_status(status="failed")
    assert run.read_status() == {"status": "failed", "started": "1"}
