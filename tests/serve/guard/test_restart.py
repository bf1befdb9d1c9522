"""A guard that is killed in the middle of a ramp goes on where it stood."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab.core.errors import ArtifactError
from lab.serve.guard.config import GuardConfig, LatencyConfig, MetricConfig, RolloutConfig
from lab.serve.guard.guard import Guard
from lab.serve.guard.log import DecisionLog
from tests.serve.guard.traffic import Variant, endpoint, observation

CONFIG = GuardConfig(
    latency=LatencyConfig(num_calibration=200),
    metrics={"good": MetricConfig(role="signal")},
    rollout=RolloutConfig(ramp_percents=(10, 25, 50, 100), bake_s=10, min_requests=20),
)
KILLED = """
import os, signal, sys
from pathlib import Path
from lab.serve.guard.log import DecisionLog
from tests.serve.guard.test_restart import CONFIG
from tests.serve.guard.traffic import endpoint

one = endpoint(CONFIG, DecisionLog(Path(sys.argv[1])), metric="good")
one.guard.start_rollout("new", now_s=0.0)
one.serve(2500)
one._second(50, 0.0)      # seen, and lost with the process, like everything after the last tick
os.kill(os.getpid(), signal.SIGKILL)
"""


def everything(guard: Guard) -> dict[str, Any]:
    state = guard.state()
    del state["resumed"]
    return dict(json.loads(json.dumps(state)))


def test_killed_in_the_middle_of_a_ramp(tmp_path: Path) -> None:
    path = tmp_path / "guard.sqlite"
    died = subprocess.run([sys.executable, "-c", KILLED, str(path)], env=os.environ, timeout=120, check=False)
    assert died.returncode == -signal.SIGKILL
    same = endpoint(CONFIG, metric="good")
    same.guard.start_rollout("new", now_s=0.0)
    same.serve(2500)

    again = endpoint(CONFIG, DecisionLog(path), metric="good")
    assert again.guard.resumed
    assert again.guard.weights == {"old": 0.5, "new": 0.5}
    assert again.guard.rollout is not None
    assert (again.guard.rollout.phase, again.guard.rollout.step) == ("ramping", 2)
    assert everything(again.guard) == everything(same.guard)
    again.now_s = same.now_s
    again.serve(3000)
    assert [d.kind for d in again.decisions] == ["set_weights", "promote"]
    assert [d["kind"] for d in again.guard.log.decisions()] == ["set_weights"] * 4 + ["promote"]


def test_every_decision_is_on_disk_before_it_is_returned(tmp_path: Path) -> None:
    path = tmp_path / "guard.sqlite"
    one = endpoint(CONFIG, DecisionLog(path), new=Variant(error_rate=1.0))
    one.guard.start_rollout("new", now_s=0.0)
    one.serve(300)
    assert one.decisions[-1].kind == "rollback"
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as reader:  # another process, while the guard is open
        kind, weights = reader.execute("SELECT kind, weights FROM decisions ORDER BY id DESC").fetchone()
        assert reader.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert (kind, json.loads(weights)) == ("rollback", {"old": 1.0, "new": 0.0})
    reader.close()
    again = Guard(CONFIG, {"old": 1.0, "new": 0.0}, log=DecisionLog(path))
    assert again.weights == {"old": 1.0, "new": 0.0}
    assert again.stopped == one.guard.stopped
    assert again.rollout is not None
    assert again.rollout.phase == "rolled_back"
    assert again.tick(one.now_s + 1) == []  # not said twice


def test_sessions_seen_before_the_restart_stay_seen(tmp_path: Path) -> None:
    path = tmp_path / "guard.sqlite"
    for _ in range(2):
        guard = Guard(CONFIG, {"old": 1.0, "new": 1.0}, log=DecisionLog(path))
        for unit in range(10):
            guard.observe(observation("new", "model_error", unit=unit, sticky=True))
        guard.tick(0.0)
        guard.log.close()
    errors = guard.state()["variants"]["new"]["guardrails"]["model_error"]
    assert errors["num_candidate"] == 10
    assert guard.state()["variants"]["new"]["totals"]["new"]["model_error"] == 20


def test_an_idle_guard_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "guard.sqlite"
    guard = Guard(CONFIG, {"old": 1.0, "new": 1.0}, log=DecisionLog(path))
    guard.tick(1.0)
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as reader:
        version = [reader.execute("PRAGMA data_version").fetchone()[0]]
        guard.tick(2.0)
        version.append(reader.execute("PRAGMA data_version").fetchone()[0])
        guard.observe(observation("new"))
        guard.tick(3.0)
        version.append(reader.execute("PRAGMA data_version").fetchone()[0])
    reader.close()
    assert version[0] == version[1] != version[2]


@pytest.mark.parametrize("change", ["config", "variants", "models"])
def test_evidence_of_another_experiment_is_not_continued(tmp_path: Path, change: str) -> None:
    path = tmp_path / "guard.sqlite"
    guard = Guard(CONFIG, {"old": 1.0, "new": 1.0}, log=DecisionLog(path), identity="sha-1")
    guard.observe(observation("new", "model_error", unit=1, sticky=True))
    guard.tick(0.0)
    guard.log.close()
    config = CONFIG.model_copy(update={"alpha": 0.01}) if change == "config" else CONFIG
    variants = {"old": 1.0, "new": 1.0} | ({"third": 1.0} if change == "variants" else {})
    identity = "sha-2" if change == "models" else "sha-1"
    other = Guard(config, variants, log=DecisionLog(path), identity=identity)
    assert not other.resumed
    assert other.state()["experiment"] == 2
    assert other.state()["variants"]["new"]["guardrails"]["model_error"]["num_candidate"] == 0
    shares = {name: 1 / len(variants) for name in variants}
    other.observe(observation("new", "model_error", unit=1, sticky=True, shares=shares))  # its first time here
    other.tick(1.0)
    assert other.state()["variants"]["new"]["guardrails"]["model_error"]["num_candidate"] == 1


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no database, but it is long enough to be looked at" * 20)
    with pytest.raises(ArtifactError, match="cannot be opened"):
        DecisionLog(tmp_path / "text")
    db = sqlite3.connect(tmp_path / "newer")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(ArtifactError, match="version"):
        DecisionLog(tmp_path / "newer")
