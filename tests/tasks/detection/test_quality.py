"""The quality that the shipped configurations promise, held by training them as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.config.load import read_source
from lab.pipelines.context import load_config
from lab.pipelines.train import start

# Measured (configs' headers), less what another seed or another machine's rounding may cost.
FLOORS = {"fashion_scenes": 0.57, "trees": 0.14}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", sorted(FLOORS))
def test_reaches_its_precision(name: str, repo: Path, tmp_path: Path) -> None:
    path = repo / "configs/detection" / f"{name}.yaml"
    assert read_source(path, []).data["task"] == "detection"
    config = load_config(path, [f"runs_dir={tmp_path}", "tracking.enabled=false"])
    assert start(config).metrics["test/map_50"] >= FLOORS[name]
