"""`lab runs`: what is on disk, and the upload of what a tracking server missed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lab.artifacts.manifest import MANIFEST_NAME, Manifest
from lab.artifacts.rundir import RunDir, find_run, list_runs
from lab.core.errors import LabError


def overview(runs_dir: Path, task: str | None = None) -> list[dict[str, Any]]:
    """One row per run, oldest first: name, task, status, start, metrics, bundles."""
    from lab.tracking import pending_runs

    pending = {path.resolve() for path in pending_runs(runs_dir)}
    runs = [run for run in list_runs(runs_dir) if task is None or run.path.parent.name == task]
    return [_row(run) | {"to_upload": run.path.resolve() in pending} for run in runs]


def detail(spec: str, runs_dir: Path) -> dict[str, Any]:
    """Everything about one run that its files tell. Raises ArtifactError."""
    run = find_run(spec, runs_dir)
    return _row(run) | {"files": sorted(str(p.relative_to(run.path)) for p in run.path.rglob("*") if p.is_file())}


def _row(run: RunDir) -> dict[str, Any]:
    status = run.read_status()
    return {
        "name": run.name,
        "task": run.path.parent.name,
        "status": status.get("status", "unknown"),
        "started": status.get("started", ""),
        "folder": str(run.path),
        "metrics": _metrics(run),
        "bundles": [path.name for path in run.bundles()],
        "mlflow_run_id": status.get("mlflow_run_id", ""),
    }


def _metrics(run: RunDir) -> dict[str, float]:
    if not (run.path / MANIFEST_NAME).exists():
        return {}
    try:
        return Manifest.load(run.path, verify=False).metrics.get("train", {})
    except LabError:
        return {}  # a damaged manifest must not hide the other runs; `lab runs show` names it
