"""lab doctor: every finding says what was found, or what to do about what was not; quick, and without heavy imports."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.core import host
from lab.pipelines import doctor
from lab.pipelines.doctor import Finding, examine, without_password, x86_level


def finding(area: str) -> Finding:
    (found,) = [item for item in examine() if item.area == area]
    return found


@pytest.fixture(autouse=True)
def _empty_data_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAB_DATA", str(tmp_path / "data"))


@pytest.fixture
def health_server() -> Iterator[str]:
    """A server that answers /health with 200 and everything else with 404."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the base class's name
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_every_area_is_there_once_and_faults_come_with_a_fix() -> None:
    findings = examine()
    areas = [item.area for item in findings]
    assert len(set(areas)) == len(areas)
    assert {"CPU", "memory", "Python", "GPU", "torch", "mlflow", "apache-tvm", "CUDA compiler", "C++ compiler"} <= set(
        areas
    )
    assert {"ARM compiler", "ARM emulator", "disk", "MLflow server", "data sets"} <= set(areas)
    for item in findings:
        assert item.detail
        assert bool(item.fix) == (item.status != "ok")


@pytest.mark.parametrize(
    ("level", "features"),
    [
        (1, frozenset({"sse2", "avx2"})),
        (2, frozenset(doctor.X86_LEVELS[2])),
        (3, frozenset(doctor.X86_LEVELS[2] | doctor.X86_LEVELS[3])),
        (3, frozenset(doctor.X86_LEVELS[2] | doctor.X86_LEVELS[3] | doctor.X86_LEVELS[4] - {"avx512bw"})),
        (4, frozenset(doctor.X86_LEVELS[2] | doctor.X86_LEVELS[3] | doctor.X86_LEVELS[4])),
        (2, frozenset(doctor.X86_LEVELS[2] | doctor.X86_LEVELS[4])),
    ],
)
def test_x86_level_is_the_highest_without_a_gap(level: int, features: frozenset[str]) -> None:
    assert x86_level(features) == level


@pytest.mark.skipif(host.cpu_arch() != "x86_64", reason="levels are x86-64's")
def test_x86_level_agrees_with_the_dynamic_linker() -> None:
    listing = subprocess.run(
        ["/lib64/ld-linux-x86-64.so.2", "--help"], capture_output=True, text=True, check=False
    ).stdout
    supported = [line.split()[0] for line in listing.splitlines() if "x86-64-v" in line and "supported" in line]
    if not listing or "x86-64-v" not in listing:
        pytest.skip("this dynamic linker does not list levels (glibc older than 2.33)")
    assert x86_level(host.cpu_features()) == max([1, *(int(name[-1]) for name in supported)])


def test_missing_tools_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    compiler, arm = finding("C++ compiler"), finding("ARM compiler")
    assert (compiler.status, "g++" in compiler.fix) == ("missing", True)
    assert (arm.status, "make setup-arm" in arm.fix) == ("missing", True)


def test_missing_packages_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda package: None)
    findings = {item.area: item for item in examine()}
    for package, _, extra in doctor.PACKAGES:
        assert findings[package].status == "missing"
        assert findings[package].fix == doctor.install(extra)
        assert f"'.[{extra}]'" in findings[package].fix


def test_broken_gpu_driver_is_limited_not_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA H100, 81559 MiB, 570.86'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(doctor, "_version", lambda package: None)
    gpu = finding("GPU")
    assert (gpu.status, gpu.detail) == ("limited", "NVIDIA H100, 81559 MiB, 570.86")
    assert "PyTorch is not installed" in gpu.fix


def test_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1_500_000_000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    disk = finding("disk")
    assert (disk.status, "2 GB free" in disk.detail) == ("limited", True)


def test_tracking_server_that_answers(monkeypatch: pytest.MonkeyPatch, health_server: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://someone:secret@{health_server}/")
    server = finding("MLflow server")
    assert (server.status, server.detail) == ("ok", f"http://***@{health_server}/ answers")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{health_server}/elsewhere")
    assert finding("MLflow server").detail == f"http://{health_server}/elsewhere: HTTP 404"


def test_tracking_server_that_is_down_or_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    server = finding("MLflow server")
    assert (server.status, "lab runs sync" in server.fix) == ("missing", True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "gopher://old")
    assert finding("MLflow server").status == "limited"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert "no server needed" in finding("MLflow server").detail


def test_passwords_are_never_shown() -> None:
    text = "cannot reach http://someone:secret@host:5000/x or postgresql://a:b@db/mlflow"
    assert without_password(text) == "cannot reach http://***@host:5000/x or postgresql://***@db/mlflow"


def test_data_sets_already_there_are_listed(tmp_path: Path) -> None:
    missing = finding("data sets")
    assert (missing.status, "lab data fetch fashion-mnist" in missing.fix) == ("missing", True)
    entry = doctor.CATALOG["mnist-5k"]
    (tmp_path / "data" / entry.name).mkdir(parents=True)
    for pair in entry.splits.values():
        for name in pair:
            (tmp_path / "data" / entry.name / name).touch()
    assert finding("data sets").detail == f"mnist-5k in {tmp_path / 'data'}"


def test_takes_under_five_seconds_and_imports_nothing_heavy() -> None:
    program = (
        "import sys; from lab.pipelines.doctor import examine; examine(); "
        "print([m for m in ('torch', 'tvm', 'mlflow', 'onnxruntime', 'openvino') if m in sys.modules])"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    elapsed_s = time.perf_counter() - start
    if finding("GPU").status == "missing":
        assert done.stdout.strip() == "[]"
        assert elapsed_s < 5
