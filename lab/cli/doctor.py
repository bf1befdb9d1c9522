"""`lab doctor`."""

from __future__ import annotations

from dataclasses import asdict

from lab.cli.output import JsonFlag, emit, table


def command(as_json: JsonFlag = False) -> None:
    """Tell what this machine can do, and what to install for the rest."""
    from lab.pipelines.doctor import examine

    findings = examine()
    rows = [[f.area, f.status, f.detail, f.fix] for f in findings]
    emit(
        {"findings": [asdict(finding) for finding in findings]},
        as_json,
        lambda: table("this machine", ["what", "status", "found", "to get it"], rows),
    )
