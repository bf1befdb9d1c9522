"""The child run of a compilation on the tracking server."""

from __future__ import annotations

from pathlib import Path

from lab.artifacts.manifest import MANIFEST_NAME, Manifest
from lab.pipelines.compile_report import HTML_NAME
from lab.pipelines.context import OpenRun

REPORT_NAME = "report.json"


def track_bundle(opened: OpenRun, folder: Path, manifest: Manifest) -> None:
    """Log what was compiled, its parity and its report."""
    assert manifest.target is not None
    tracker = opened.tracker(f"compile {manifest.target.name}", {"lab.target": manifest.target.name})
    tracker.log_params(
        {"target": manifest.target.name, "mcpu": manifest.target.mcpu, "arch": manifest.target.arch}
        | manifest.options
        | {"parity": manifest.parity[-1].status}
    )
    rung = manifest.parity[-1]
    measured = {
        "size_mb": sum(manifest.files[name]["size_bytes"] for entry in manifest.entries for name in entry.files) / 1e6,
        "compile_s": manifest.durations_s["compile"],
        "max_abs_error": rung.max_abs_error,
        "agreement": rung.agreement,
    }
    measured |= manifest.metrics.get(rung.name, {})
    tracker.log_metrics({name: value for name, value in measured.items() if value is not None})
    for name in (REPORT_NAME, *([HTML_NAME] if HTML_NAME in manifest.files else [])):
        tracker.log_artifact(folder / name, "compile")
    tracker.log_artifact(folder / MANIFEST_NAME, "compile")
    if opened.config.tracking.register_model:  # an endpoint can be given models:/<task>-<name>-<target>@alias
        name = f"{opened.config.task}-{opened.config.name}-{folder.name}"
        tracker.register_model(name=name, folder=folder, manifest=manifest)
    tracker.finish()
