"""What `lab compile` prints."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from lab.cli.main import app
from tests.compile.graphs import residual_network


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return residual_network(tmp_path_factory.mktemp("network") / "network.onnx", channels=3, num_classes=7)


def test_kernels_are_listed_with_their_schedules(network: Path, tmp_path: Path) -> None:
    arguments = ["compile", "--onnx", str(network), "--output", str(tmp_path / "bundle"), "--kernels"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert "conv2d_direct" in done.stdout
    assert "passed vs onnxruntime" in done.stdout
