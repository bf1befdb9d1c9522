"""Against a real `mlflow server` on loopback, killed in the middle of a run and started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from mlflow import MlflowClient

from lab.artifacts.manifest import Manifest
from lab.core.signature import Signature, TensorSpec
from lab.tracking import MlflowTracker, sync_run, ui_command

# Each start of the server costs about ten seconds on two cores.
pytestmark = pytest.mark.slow

Serve = Callable[[], tuple[str, Callable[[], None]]]


@pytest.fixture
def serve(uri: str, tmp_path: Path) -> Iterator[Serve]:
    """Start `lab`'s own UI command, which is a tracking server too; returns its address and how to kill it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    started: list[subprocess.Popen[bytes]] = []

    def stop(process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def start() -> tuple[str, Callable[[], None]]:
        with (tmp_path / "server.log").open("ab") as log:
            process = subprocess.Popen(ui_command(uri, port=port), stdout=log, stderr=log, start_new_session=True)
        started.append(process)
        address = f"http://127.0.0.1:{port}"
        _wait_until_healthy(address, process)
        return address, lambda: stop(process)

    yield start
    for process in started:
        stop(process)


def _wait_until_healthy(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if requests.get(f"{address}/health", timeout=1).ok:
                return
        except requests.RequestException:
            time.sleep(0.2)
    pytest.fail(f"mlflow server did not start at {address}")


def test_a_server_killed_in_the_middle_loses_nothing(
    serve: Serve, start: Callable[..., MlflowTracker], run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address, kill = serve()
    tracker = start(address)
    mlflow_id = tracker.run_id
    assert tracker.link() == f"{address}/#/experiments/{tracker.spool.state.experiment_id}/runs/{mlflow_id}"
    for step in range(1, 1300):  # more than one request holds
        tracker.log_metrics({"loss": 1 / step}, step=step)
    assert tracker.flush()
    kill()
    for step in range(1300, 2600):
        tracker.log_metrics({"loss": 1 / step}, step=step)
    tracker.log_artifact(run_folder / "config.yaml", "sub")
    signature = Signature((TensorSpec("x", "float32", ("batch", 7)),), (TensorSpec("y", "float32", (3,)),))
    manifest = Manifest(kind="run", name="first", signature=signature).with_files(run_folder, ["config.yaml"])
    manifest.save(run_folder)
    tracker.register_model(name="tiny", folder=run_folder, manifest=manifest)
    begin = time.perf_counter()
    tracker.finish()
    assert time.perf_counter() - begin < 5
    assert "lab runs sync" in capsys.readouterr().err

    serve()
    (synced,) = sync_run(run_folder)
    assert (synced.outcome, synced.run_id, synced.num_refused) == ("uploaded", mlflow_id, 0)
    assert [s.outcome for s in sync_run(run_folder)] == ["complete"]
    client = MlflowClient(address, address)
    metrics = client.get_metric_history(mlflow_id, "loss")
    assert [(m.step, m.value) for m in metrics] == [(step, 1 / step) for step in range(1, 2600)]
    assert client.get_run(mlflow_id).info.status == "FINISHED"
    assert [f.path for f in client.list_artifacts(mlflow_id, "sub")] == ["sub/config.yaml"]
    assert client.get_model_version("tiny", "1").run_id == mlflow_id
    names = [f.path for f in client.list_artifacts(mlflow_id, "model")]
    assert names == ["model/MLmodel", "model/config.yaml", "model/manifest.json"]


def test_the_ui_shows_files_that_were_logged_without_a_server(
    serve: Serve, start: Callable[..., MlflowTracker], uri: str, run_folder: Path
) -> None:
    tracker = start(uri)
    tracker.log_artifact(run_folder / "config.yaml")
    tracker.finish()
    address, _ = serve()
    query = {"path": "config.yaml", "run_uuid": tracker.run_id}
    answer = requests.get(f"{address}/get-artifact", params=query, timeout=10)
    assert answer.text == "task: classification\n"
    assert "<title>MLflow</title>" in requests.get(address, timeout=10).text
