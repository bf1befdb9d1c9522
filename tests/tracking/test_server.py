from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.core.errors import ConfigError, TrackingError
from lab.tracking import MlflowTracker, sync_run, ui_command
from lab.tracking.server import check_reachable, resolve_uri


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A server that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield listener.getsockname()[1]


def test_the_environment_wins_over_the_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert resolve_uri(None) == f"sqlite:///{tmp_path}/mlflow.db"
    assert resolve_uri("sqlite:///sub/x.db") == f"sqlite:///{tmp_path}/sub/x.db"
    assert resolve_uri("sqlite:////abs/x.db") == "sqlite:////abs/x.db"
    assert resolve_uri("http://here:5000") == "http://here:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there:5000")
    assert resolve_uri("http://here:5000") == "http://there:5000"


@pytest.mark.parametrize("uri", ["ftp://x", "mlruns", "file:///tmp/mlruns"])
def test_a_scheme_without_a_server_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        resolve_uri(uri)


def test_a_closed_port_is_unreachable_at_once(closed_port: int) -> None:
    begin = time.perf_counter()
    with pytest.raises(TrackingError, match="Connection refused"):
        check_reachable(f"http://127.0.0.1:{closed_port}")
    assert time.perf_counter() - begin < 2


def test_a_silent_server_is_given_up_in_time(silent_port: int) -> None:
    begin = time.perf_counter()
    with pytest.raises(TrackingError, match=r"cannot be reached"):
        check_reachable(f"http://127.0.0.1:{silent_port}", timeout_s=0.5)
    assert time.perf_counter() - begin < 1.5


@pytest.mark.parametrize("kind", ["closed", "silent"])
def test_a_run_without_a_server_goes_on_and_is_uploaded_later(
    kind: str,
    start: Callable[..., MlflowTracker],
    request: pytest.FixtureRequest,
    uri: str,
    run_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("lab.tracking.server.check_reachable", _quicker(check_reachable))
    port = request.getfixturevalue(f"{kind}_port")
    begin = time.perf_counter()
    tracker = start(f"http://127.0.0.1:{port}")
    tracker.log_params({"task": "classification"})
    tracker.log_metrics({"loss": 0.5}, step=3)
    tracker.finish()
    assert time.perf_counter() - begin < 4
    assert tracker.run_id.startswith("local-")
    assert tracker.link() == f"kept in {tracker.spool.folder}; upload it with: lab runs sync"
    said = capsys.readouterr().err
    assert f"the tracking server http://127.0.0.1:{port} cannot be reached" in said
    assert "lab runs sync" in said

    (synced,) = sync_run(run_folder, uri)
    assert (synced.outcome, synced.run_name) == ("uploaded", "first")
    from mlflow import MlflowClient

    run = MlflowClient(uri).get_run(synced.run_id)
    assert (run.data.params, run.data.metrics) == ({"task": "classification"}, {"loss": 0.5})


def _quicker(check: Callable[..., None]) -> Callable[[str], None]:
    return lambda uri: check(uri, timeout_s=0.5)


def test_without_mlflow_a_run_is_kept(
    start: Callable[..., MlflowTracker], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    tracker = start("sqlite:///mlflow.db")
    tracker.finish()
    assert not tracker.is_online
    assert "MLflow is not installed here" in capsys.readouterr().err


def test_the_ui_serves_the_database_on_loopback(tmp_path: Path) -> None:
    command = ui_command("sqlite:///mlflow.db", port=5123)
    assert command[command.index("--backend-store-uri") + 1] == f"sqlite:///{tmp_path}/mlflow.db"
    assert command[command.index("--artifacts-destination") + 1] == f"{tmp_path}/mlartifacts"
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--port") + 1] == "5123"
    with pytest.raises(TrackingError, match="shows its own UI"):
        ui_command("http://somewhere:5000")
