"""Tracking in MLflow, which only this package imports, and only once a tracker is opened.

`open_tracker` starts a run, `child` nests one below it; `sync_runs` uploads what a server that was down has missed;
`ui_command` shows the runs.
"""

from lab.tracking.mlflow_tracker import MlflowTracker, child, open_tracker
from lab.tracking.null import NullTracker
from lab.tracking.sync import Synced, pending_runs, sync_run, sync_runs
from lab.tracking.ui import ui_command

__all__ = [
    "MlflowTracker",
    "NullTracker",
    "Synced",
    "child",
    "open_tracker",
    "pending_runs",
    "sync_run",
    "sync_runs",
    "ui_command",
]
