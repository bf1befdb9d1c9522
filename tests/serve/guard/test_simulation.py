"""The simulation behind the guardrails' promises at full size (its small siblings are in tests/serve/statistics)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "benchmarks" / "guardrail_simulation.py"


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_two_thousand_runs_keep_the_levels_and_find_the_faults(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--runs", "2000", "--guard-runs", "300", "--results", str(tmp_path)]
    subprocess.run(command, check=True)
    report = json.loads((tmp_path / "guardrail_simulation.json").read_text())
    ours = [row for row in report["false_alarms"] if "not what we do" not in row["test"]]
    assert {row["runs"] for row in ours} == {2000, 300}
    assert [row for row in ours if row["rate"] > row["alpha"]] == []
    others = [row for row in report["false_alarms"] if "not what we do" in row["test"]]
    assert len(others) == 3
    assert all(row["rate"] > 2 * row["alpha"] for row in others)  # what spacing and the equal-size control are for
    assert len(report["detection"]) == 19
    for row in report["detection"]:
        assert row["detected"] == 1.0
        assert 0.4 < row["median_over_expected"] < 1.3
        assert row["median_requests"] <= (row.get("beta_mixture_requests") or float("inf"))
