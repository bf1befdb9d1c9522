"""Where a run comes from, as MLflow tags, and its summary in Markdown."""

from __future__ import annotations

import getpass
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from lab import __version__
from lab.core.host import cpu_name, num_cores

NOTE_TAG = "mlflow.note.content"
GIT_TIMEOUT_S = 3


def source_tags() -> dict[str, str]:
    """Version, user, command and, in a git checkout, the commit."""
    tags = {
        "lab.version": __version__,
        "lab.cpu": f"{cpu_name()}, {num_cores()} cores",
        "mlflow.source.name": Path(sys.argv[0]).name or "python",
        "mlflow.source.type": "LOCAL",
    }
    commit = git_commit(Path.cwd())
    return tags | _user() | ({"mlflow.source.git.commit": commit} if commit else {})


def _user() -> dict[str, str]:
    try:
        return {"mlflow.user": getpass.getuser()}
    except (OSError, KeyError):  # a container's user id without a name
        return {}


def git_commit(folder: Path) -> str:
    """The checked-out commit, or "" outside a git checkout."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "--verify", "HEAD"],
            capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def summary(run_name: str, folder: Path, status: str, metrics: Mapping[str, float]) -> str:
    """A short Markdown description: status, folder, and the last value of every metric that is not a resource."""
    rows = [f"| {key} | {value:.6g} |" for key, value in sorted(metrics.items()) if not key.startswith("system/")]
    table = ["| metric | last value |", "|---|---|", *rows] if rows else []
    return "\n".join([f"**{run_name}**: {status}", "", f"Folder: `{folder}`", "", *table]).strip()
