"""Starting from other weights: published ones, or those of an earlier run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lab.artifacts.rundir import RunDir
from lab.core.errors import ArtifactError
from lab.train.initial import fill, initial_model
from lab.train.weights import save_weights
from tests.train.fake_task import FakeConfig, FakeTask


def test_a_run_starts_from_another_ones_weights(tmp_path: Path) -> None:
    config = FakeConfig(runs_dir=tmp_path, seed=1)
    earlier = FakeTask(config).build_model()
    with torch.no_grad():
        for parameter in earlier.parameters():
            parameter.add_(0.25)
    run = RunDir(tmp_path / "fake" / "first")
    run.path.mkdir(parents=True)
    run.update_status(status="finished", started="2026-01-01T00:00:00Z")
    save_weights(earlier, run.weights)
    started = initial_model(FakeTask(config), config.model_copy(update={"init_from": str(run.path)}))
    for name, value in earlier.state_dict().items():
        assert torch.equal(started.state_dict()[name], value), name


def test_tensors_of_another_shape_stay_fresh_and_are_named() -> None:
    old = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(7, 2))
    new = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(7, 4))
    before = new[3].weight.clone()
    assert fill(new, old.state_dict(), "x") == ["3.weight", "3.bias"]
    assert torch.equal(new[0].weight, old[0].weight)
    assert torch.equal(new[3].weight, before)


def test_another_architecture_is_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    with pytest.raises(ArtifactError, match="another architecture") as caught:
        fill(model, {"0.weight": torch.zeros(5, 3), "other": torch.zeros(1)}, "x")
    assert "missing 0.bias" in str(caught.value.got)
    with pytest.raises(ArtifactError, match="another architecture"):
        fill(model, {name: torch.zeros(9) for name in model.state_dict()}, "x")
