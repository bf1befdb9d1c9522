"""The history of an endpoint: totals go on after a restart, readers do not disturb, a killed server is noticed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lab.artifacts.endpoint_log import EndpointLog, HistoryWriter, Sample, hold_serving_lock, list_endpoints
from lab.core.errors import ArtifactError


def sample(variant: str, time_s: float, num: float, sha256: str = "s1", **metrics: float) -> Sample:
    return Sample(variant, {"sha256": sha256, "model": "m"}, time_s, metrics, {"requests": num})


def test_totals_go_on_after_a_restart_and_models_are_told_apart(tmp_path: Path) -> None:
    writer = HistoryWriter(tmp_path / "shop")
    writer.add([sample("one", 10.0, 3, weight=0.9), sample("two", 10.0, 1, weight=0.1)])
    writer.add([sample("one", 20.0, 4)])
    writer.close()
    identity = EndpointLog(tmp_path / "shop").meta()["endpoint_id"]
    writer = HistoryWriter(tmp_path / "shop", {"experiment": "e"})
    writer.add([sample("one", 30.0, 5), sample("one", 40.0, 7, sha256="s2")])

    log = EndpointLog(tmp_path / "shop")
    assert log.meta() == {"endpoint_id": identity, "experiment": "e"}
    assert [(v.name, v.facts["sha256"], v.first_s) for v in log.variants()] == [
        ("one", "s1", 10.0), ("two", "s1", 10.0), ("one", "s2", 40.0)
    ]  # fmt: skip
    totals = [(p.variant, p.time_s, p.metrics["requests_total"]) for p in log.points()]
    assert totals == [(1, 10.0, 3), (2, 10.0, 1), (1, 20.0, 7), (1, 30.0, 12), (3, 40.0, 7)]
    assert [p.id for p in log.points(after_id=2, limit=2)] == [3, 4]
    assert {variant: p.time_s for variant, p in log.latest().items()} == {1: 30.0, 2: 10.0, 3: 40.0}
    assert log.points()[0].metrics["weight"] == 0.9
    writer.add([sample("two", 50.0, 1)])  # the reader left nothing locked
    assert log.decisions() == []
    assert [found.name for found in list_endpoints(tmp_path)] == ["shop"]
    writer.close()


def test_a_killed_server_is_noticed(tmp_path: Path) -> None:
    HistoryWriter(tmp_path).close()
    log = EndpointLog(tmp_path)
    assert not log.is_served()
    first, second = hold_serving_lock(tmp_path), hold_serving_lock(tmp_path)
    assert log.is_served()
    first.close()
    assert log.is_served()
    second.close()
    assert not log.is_served()
    program = (
        "import sys, time, pathlib; from lab.artifacts.endpoint_log import hold_serving_lock as hold\n"
        "file = hold(pathlib.Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert log.is_served()
        process.kill()
        process.wait()
        assert not log.is_served()


def test_what_is_no_history_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no endpoint's history"):
        EndpointLog(tmp_path)
    (tmp_path / "history.sqlite").write_bytes(b"not a database at all, but long enough to be looked at" * 20)
    with pytest.raises(ArtifactError, match="cannot be opened"):
        HistoryWriter(tmp_path)
    with pytest.raises(ArtifactError, match="cannot be read"):
        EndpointLog(tmp_path).points()
