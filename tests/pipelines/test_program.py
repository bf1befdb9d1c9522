"""A program the whole way through the command line: train, export, compile, evaluate, bench and predict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from lab.artifacts.manifest import Manifest
from lab.cli.main import app
from lab.data.series.jsonl import write
from tests.tasks.forecasting.tiny import HORIZON, tiny_config, tiny_series, write_tiny_series


def lab(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return str(done.stdout)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("program")
    config = tiny_config(write_tiny_series(folder))
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    lab("train", str(folder / "tiny.yaml"), "--runs-dir", str(folder / "runs"))
    return folder


def requests(path: Path) -> Path:
    """Three series without their end, but with what is known of it."""
    write([one.before(len(one) - HORIZON, HORIZON) for one in tiny_series()[:3]], path)
    return path


def test_the_whole_way(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    run = home / "runs" / "forecasting" / "tiny"
    assert "encode.onnx" in lab("export", str(run))
    assert "passed vs onnxruntime, 4 samples" in lab("compile", str(run), "--samples", "4", "--report")
    bundle = run / "bundles" / "x86"
    manifest = Manifest.load(bundle)
    assert {entry.function for entry in manifest.entries} == {"encode", "step"}
    assert (manifest.functions, manifest.parity[-1].status) == (Manifest.load(run / "export").functions, "passed")
    profile = json.loads((bundle / "report.json").read_text())["profile"]
    assert {function["function"] for function in profile["functions"]} == {"encode", "step"}
    assert all(function["inference_ms"] > 0 for function in profile["functions"])
    assert '<section id="encode-' in (bundle / "report.html").read_text()
    scores = json.loads(lab("evaluate", str(bundle), "--json"))["metrics"]
    assert scores["mean_wql"] == pytest.approx(Manifest.load(run).metrics["train"]["test/mean_wql"], rel=1e-3)
    records = [json.loads(line) for line in lab("predict", str(bundle), str(requests(home / "ask.jsonl"))).splitlines()]
    assert [record["index"] for record in records] == list(range(3))
    assert all(len(record["quantiles"]["0.5"]) == HORIZON for record in records)
