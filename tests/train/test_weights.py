"""Weights on disk: exact, and refused by name when they are another model's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lab.core.errors import ArtifactError, IntegrityError
from lab.train.weights import load_weights, save_weights


def net(width: int = 5) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width))


def test_round_trip_is_exact_also_from_channels_last(tmp_path: Path) -> None:
    model, other = net().to(memory_format=torch.channels_last), net()
    model(torch.randn(2, 3, 7, 7))
    save_weights(model, tmp_path / "model.safetensors")
    load_weights(other, tmp_path / "model.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_another_model_is_refused_with_the_differences(tmp_path: Path) -> None:
    save_weights(net(7), tmp_path / "w")
    with pytest.raises(ArtifactError, match=r"0\.weight is \[7, 3, 3, 3\], not \[5, 3, 3, 3\]"):
        load_weights(net(5), tmp_path / "w")
    with pytest.raises(ArtifactError, match=r"missing 0\.0\.weight"):
        load_weights(nn.Sequential(net(7)), tmp_path / "w")


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no weights at"):
        load_weights(net(), tmp_path / "none")
    save_weights(net(), tmp_path / "w")
    (tmp_path / "w").write_bytes((tmp_path / "w").read_bytes()[:200])
    with pytest.raises(IntegrityError, match="is damaged"):
        load_weights(net(), tmp_path / "w")
