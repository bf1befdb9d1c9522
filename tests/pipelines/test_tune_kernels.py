"""`lab tune-kernels`, and what `lab compile` makes of its records: resumed, deterministic, compiled again on change."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lab.cli.main import app
from lab.compile.tuning.records import MachineKey, Record, read_records, write_records
from lab.core.errors import ArtifactError, ConfigError, IncompatibleError, MissingToolError
from lab.pipelines import tune_kernels
from lab.pipelines.compile import compile_file
from lab.pipelines.compile_source import CompileOptions
from lab.pipelines.context import OpenRun
from lab.pipelines.tune_kernels import TuneOptions, tune_file, tune_run
from tests.compile.graphs import Graph

ONE = TuneOptions(num_threads=1, max_trials=1)


@pytest.fixture(autouse=True)
def _own_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    g = Graph((1, 32, 14, 14))
    a = g.op("Relu", g.conv("x", 32, 64, kernel=(1, 1)))
    return g.save(tmp_path_factory.mktemp("network") / "network.onnx", g.conv(a, 64, 32, kernel=(1, 1)))


def test_every_kernel_gets_a_record_and_a_second_run_skips_them(
    network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = replace(ONE, records_path=tmp_path / "records.jsonl")
    first = tune_file(network, "x86", options)
    assert len(first.rows) == 2
    assert {row.status for row in first.rows} <= {"tuned", "not beaten"}
    records = read_records(first.path)
    assert len(records) == 2
    assert {record.machine.num_threads for record in records} == {1}
    assert all(record.default_ms > 0 and record.num_trials > 0 and record.created for record in records)
    before = first.path.read_bytes()
    again = tune_file(network, "x86", options)
    assert [row.status for row in again.rows] == ["done before"] * 2
    assert again.path.read_bytes() == before
    assert "2 of 2 are tuned already" in capsys.readouterr().err


def test_what_was_done_before_an_interruption_is_kept(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lab.compile.tuning.search import Search

    options, run, calls = replace(ONE, records_path=tmp_path / "records.jsonl"), Search.run, []

    def interrupted(self: Search, opened: object) -> object:
        calls.append(opened)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run(self, opened)  # type: ignore[arg-type]

    monkeypatch.setattr(Search, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune_file(network, "x86", options)
    assert len(read_records(tmp_path / "records.jsonl")) == 1
    statuses = [row.status for row in tune_file(network, "x86", options).rows]
    assert statuses.count("done before") == 1
    assert len(read_records(tmp_path / "records.jsonl")) == 2


def test_a_spent_budget_leaves_the_rest_for_the_next_run(network: Path, tmp_path: Path) -> None:
    options = replace(ONE, records_path=tmp_path / "records.jsonl", budget_s=1e-6)
    report = tune_file(network, "x86", options)
    assert report.num_left == 2
    assert not report.path.exists()


def test_only_kernels_of_the_pattern_are_tuned(network: Path, tmp_path: Path) -> None:
    options = replace(ONE, records_path=tmp_path / "records.jsonl", pattern="*_relu*")
    assert len(tune_file(network, "x86", options).rows) == 1


def _records_with_a_choice(network: Path, path: Path) -> list[Record]:
    """Records as tuning writes them, whatever was measured."""
    tune_file(network, "x86", replace(ONE, num_threads=None, records_path=path))
    records = [
        replace(r, choice={"tile": [7, 16]}, rule="conv2d_direct", tuned_ms=1.0, gain=1.5) for r in read_records(path)
    ]
    write_records(path, records)
    return records


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this process had as many cores as the target assumes."""
    monkeypatch.setattr(tune_kernels, "num_cores", lambda: 2)


def test_compile_uses_records_says_so_and_compiles_again_when_they_change(
    network: Path, tmp_path: Path, two_cores: None
) -> None:
    path = tmp_path / "records.jsonl"
    records = _records_with_a_choice(network, path)
    plain = compile_file(network, "x86", tmp_path / "bundle", CompileOptions())
    assert plain.manifest.tuned_kernels == ()
    options = CompileOptions(records_path=path)
    tuned = compile_file(network, "x86", tmp_path / "bundle", options)
    assert not tuned.skipped, "the records are part of what was compiled"
    assert len(tuned.manifest.tuned_kernels) == 2
    assert tuned.manifest.parity[-1].status == "passed"
    rows = [row for row in tuned.kernels["kernels"] if row["chosen_by"] == "record"]
    assert {row["kernel"] for row in rows} == set(tuned.manifest.tuned_kernels)
    assert all("tile 7x16; by a tuning record, 1.50 times" in row["reason"] for row in rows)
    library = next((tmp_path / "bundle").glob("*.so")).read_bytes()
    assert compile_file(network, "x86", tmp_path / "bundle", options).skipped
    write_records(path, [replace(record, created="another day", tuned_ms=0.9) for record in reversed(records)])
    assert compile_file(network, "x86", tmp_path / "bundle", options).skipped, "the choices are the same"
    compile_file(network, "x86", tmp_path / "again", options)
    assert next((tmp_path / "again").glob("*.so")).read_bytes() == library
    write_records(path, [replace(record, choice={"tile": [14, 16]}) for record in records])
    assert not compile_file(network, "x86", tmp_path / "bundle", options).skipped
    assert not compile_file(network, "x86", tmp_path / "bundle", CompileOptions(use_records=False)).skipped


def test_own_records_are_used_without_asking_for_them(network: Path, tmp_path: Path, two_cores: None) -> None:
    from lab.compile.tuning.records import user_folder

    _records_with_a_choice(network, user_folder() / "mine.jsonl")
    compiled = compile_file(network, "x86", tmp_path / "bundle", CompileOptions())
    assert len(compiled.manifest.tuned_kernels) == 2
    other = compile_file(network, "x86", tmp_path / "other", CompileOptions(num_threads=1))
    assert other.manifest.tuned_kernels == (), "measured with two threads"
    assert other.manifest.target is not None
    assert other.manifest.target.num_threads == 1
    refused = compile_file(network, "x86", tmp_path / "bundle", CompileOptions(use_records=False))
    assert not refused.skipped
    assert refused.manifest.tuned_kernels == ()


def test_a_corrupt_file_stops_both_commands_before_any_work(network: Path, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text("not JSON\n")
    for run in (
        lambda: tune_file(network, "x86", replace(ONE, records_path=path)),
        lambda: compile_file(network, "x86", tmp_path / "bundle", CompileOptions(records_path=path)),
    ):
        with pytest.raises(ArtifactError, match="line 1: not a tuning record"):
            run()
    assert path.read_text() == "not JSON\n"
    with pytest.raises(ArtifactError, match="cannot be read"):
        compile_file(network, "x86", tmp_path / "bundle", CompileOptions(records_path=tmp_path / "none.jsonl"))


def test_what_cannot_be_measured_is_refused(network: Path, tmp_path: Path) -> None:
    with pytest.raises(IncompatibleError, match="cannot be measured here") as caught:
        tune_file(network, "arm:cortex-a72", ONE)
    assert "--rpc" in str(caught.value)
    with pytest.raises(ConfigError, match="needs as many cores"):
        tune_file(network, "x86", replace(ONE, num_threads=100_000))
    with pytest.raises(ConfigError, match="one CPU at a time"):
        tune_file(network, "x86:haswell,skylake-avx512", ONE)
    with pytest.raises(ConfigError, match="must be named"):
        tune_file(network, "x86", replace(ONE, rpc="localhost:9090"))
    with pytest.raises(ConfigError, match="malformed"):
        tune_file(network, "arm", replace(ONE, rpc="localhost"))
    with pytest.raises(ConfigError, match="no ONNX file"):
        tune_file(tmp_path / "none.onnx", "x86", ONE)


def test_the_command_prints_a_table_or_json(network: Path, tmp_path: Path) -> None:
    command = ["tune-kernels", "--onnx", str(network), "--threads", "1", "--trials", "1"]
    done = CliRunner().invoke(app, [*command, "--records", str(tmp_path / "r.jsonl")], catch_exceptions=False)
    assert done.exit_code == 0
    assert "default ms" in done.stdout
    assert "conv2d_direct" in done.stdout
    done = CliRunner().invoke(app, [*command, "--records", str(tmp_path / "r.jsonl"), "--json"], catch_exceptions=False)
    assert [row["status"] for row in json.loads(done.stdout)["kernels"]] == ["done before"] * 2
    with pytest.raises(ConfigError, match="both a run and --onnx"):
        CliRunner().invoke(app, [*command, "latest"], catch_exceptions=False)
    both = ["compile", "--onnx", str(network), "--no-tuning-records", "--tuning-records", "r.jsonl"]
    with pytest.raises(ConfigError, match="one of them"):
        CliRunner().invoke(app, both, catch_exceptions=False)


def test_a_runs_kernels_are_tuned_in_a_child_run(opened: OpenRun, tmp_path: Path) -> None:
    report = tune_run(opened, "x86", replace(ONE, records_path=tmp_path / "r.jsonl", pattern="*matmul*"))
    assert len(report.rows) == 1
    kept = json.loads((opened.dir.path / "tuning.json").read_text())
    assert kept["kernels"][0]["kernel"] == report.rows[0].kernel


def test_a_board_measures_over_rpc(network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The board is this machine; its target has a name, as a board's has. This process only ran bundles before."""
    pytest.importorskip("tvm")  # loaded with its compiler, before the variable is set
    monkeypatch.setenv("TVM_USE_RUNTIME_LIB", "1")
    with pytest.raises(MissingToolError, match="no RPC server"):
        tune_file(network, "x86:x86-64-v3", replace(ONE, rpc="127.0.0.1:1"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"TVM_NUM_THREADS": "1", "TVM_BIND_THREADS": "0", "TVM_USE_RUNTIME_LIB": "0"}
    command = [sys.executable, "-m", "tvm.exec.rpc_server", "--host", "127.0.0.1", "--key", "board"]
    command += ["--port", str(port), "--port-end", str(port + 1)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            assert any("bind to" in line for line in server.stderr)
            options = replace(ONE, records_path=tmp_path / "r.jsonl", rpc=f"127.0.0.1:{port}:board", pattern="*_relu*")
            report = tune_file(network, "x86:x86-64-v3", options)
        finally:
            server.kill()
    assert {row.status for row in report.rows} <= {"tuned", "not beaten"}
    (record,) = read_records(tmp_path / "r.jsonl")
    assert record.machine == MachineKey("x86-64-v3", "", 1)
    assert record.default_ms > 0
