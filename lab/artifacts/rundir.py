"""The layout of `runs/<task>/<name>/`, and how a run is found again by path, name or "latest"."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.artifacts.files import read_json, write_json
from lab.core.errors import ArtifactError
from lab.core.tables import nearest

STATUS_NAME = "run.json"


@dataclass(frozen=True)
class RunDir:
    """Paths inside one run's folder."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def status(self) -> Path:
        return self.path / STATUS_NAME

    @property
    def weights(self) -> Path:
        """The weights that evaluation, export and prediction use: best epoch, or the average (EMA)."""
        return self.path / "model.safetensors"

    @property
    def checkpoint(self) -> Path:
        """Everything needed to go on training: a folder of safetensors and JSON."""
        return self.path / "checkpoints" / "last"

    @property
    def best(self) -> Path:
        return self.path / "checkpoints" / "best"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def plots(self) -> Path:
        return self.path / "plots"

    @property
    def quantized(self) -> Path:
        """The export's 8-bit copy."""
        return self.path / "quantized"

    @property
    def export(self) -> Path:
        return self.path / "export"

    @property
    def onnx(self) -> Path:
        return self.export / "model.onnx"

    @property
    def bench(self) -> Path:
        return self.path / "bench"

    def bundle(self, target: str) -> Path:
        return self.path / "bundles" / target

    def bundles(self) -> list[Path]:
        return sorted(p.parent for p in (self.path / "bundles").glob("*/manifest.json"))

    def read_status(self) -> dict[str, Any]:
        """The content of `run.json`: status, times, MLflow run id."""
        return dict(read_json(self.status))

    def update_status(self, **changes: Any) -> None:
        old = self.read_status() if self.status.exists() else {}
        write_json(self.status, old | changes)


def new_run_dir(root: Path, task: str, name: str) -> RunDir:
    """Create `root/task/name`, or `name-2`, `name-3`, ... when that is taken."""
    number = 1
    while True:
        candidate = root / task / (name if number == 1 else f"{name}-{number}")
        try:
            candidate.mkdir(parents=True)
        except FileExistsError:
            number += 1
            continue
        return RunDir(candidate)


def list_runs(root: Path) -> list[RunDir]:
    """All runs below `root`, oldest first."""
    found = [RunDir(path.parent) for path in root.glob(f"*/*/{STATUS_NAME}")]
    return sorted(found, key=lambda run: (str(run.read_status().get("started", "")), run.status.stat().st_mtime))


def find_run(spec: str, root: Path, task: str | None = None) -> RunDir:
    """A run by folder, by name, or "latest" (of `task`, when given).

    Raises:
        ArtifactError: nothing fits; the message lists what is there.
    """
    if (Path(spec) / STATUS_NAME).exists():
        return RunDir(Path(spec))
    runs = [run for run in list_runs(root) if task is None or run.path.parent.name == task]
    if spec == "latest" and runs:
        return runs[-1]
    named = [run for run in runs if spec in (run.name, f"{run.path.parent.name}/{run.name}")]
    if len(named) == 1:
        return named[0]
    if len(named) > 1:
        raise ArtifactError(
            f"the run name '{spec}' fits {len(named)} runs", expected="one of " + ", ".join(str(r.path) for r in named)
        )
    names = [run.name for run in runs]
    close = nearest(spec, names)
    raise ArtifactError(
        f"no run '{spec}'" + (f" of task {task}" if task else ""),
        expected=f"a run folder, 'latest', or one of: {', '.join(names[-10:])}"
        if names
        else f"runs below {root}, of which there are none",
        hint=f"did you mean '{close}'?" if close else "lab train CONFIG makes a run; lab runs lists them",
    )
