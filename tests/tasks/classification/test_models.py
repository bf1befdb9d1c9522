"""Architectures: sizes from the papers, shortcuts, stems, pretrained weights, frozen backbones, export."""

from __future__ import annotations

import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from lab.core.errors import ArtifactError, ConfigError
from lab.tasks.classification.config import ModelConfig
from lab.tasks.classification.models import CIFAR_RESNETS, IMAGENET_RESNETS, MODELS, resnet_imagenet
from lab.tasks.classification.models.resnet_cifar import CifarResNet, PaddedShortcut


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def build(num_classes: int = 5, in_channels: int = 3, **options: Any) -> nn.Module:
    config = ModelConfig(**options)
    model: nn.Module = MODELS[config.name](config, num_classes, in_channels)
    return model


# He et al. 2015, table 6: "# params" in millions.
@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_parameters_are_the_papers(depth: int, millions: float) -> None:
    count = num_parameters(CifarResNet(depth, 10)) / 1e6
    assert round(count, 1 if depth == 110 else 2) == millions


def test_parameters_by_hand() -> None:
    assert num_parameters(CifarResNet(20, 10)) == 269_722
    grey = CifarResNet(20, 10, in_channels=1)
    assert num_parameters(grey) == 269_722 - 2 * 9 * 16
    projected = CifarResNet(20, 10, shortcut="B")
    assert num_parameters(projected) == 269_722 + (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)
    assert num_parameters(CifarResNet(20, 10, width=8)) < 269_722 / 3.9


def test_layers_are_counted_as_in_the_paper() -> None:
    for depth in (20, 110):
        weighted = [m for m in CifarResNet(depth, 10).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert len(weighted) == depth


def test_depth_must_be_six_n_plus_two() -> None:
    with pytest.raises(ConfigError, match="no such CIFAR ResNet"):
        CifarResNet(21, 10)


def test_padded_shortcut_samples_and_pads() -> None:
    x = torch.arange(2 * 5 * 7.0).reshape(1, 2, 5, 7)
    y = PaddedShortcut(2, 4, 2)(x)
    assert y.shape == (1, 4, 3, 4)
    assert torch.equal(y[:, 1:3], x[:, :, ::2, ::2])
    assert not y[:, 0].any()
    assert not y[:, 3].any()


def test_zero_init_residual_starts_as_the_identity() -> None:
    model = CifarResNet(20, 3, zero_init_residual=True)
    block = model.layer1[0].eval()
    x = torch.rand(2, 16, 5, 7)
    torch.testing.assert_close(block(x), x)


@pytest.mark.parametrize("name", [*CIFAR_RESNETS[:1], *IMAGENET_RESNETS[:1]])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_any_channels_and_size(name: str, in_channels: int) -> None:
    model = build(7, in_channels, name=name).eval()
    assert model(torch.zeros(2, in_channels, 37, 41)).shape == (2, 7)


@pytest.mark.parametrize(("downsample", "size"), [("none", 29), ("stride", 15), ("pool", 15)])
def test_stem_of_small_resnets_can_halve_the_resolution(downsample: str, size: int) -> None:
    model = build(name="resnet20", stem_downsample=downsample).eval()
    stem = nn.Sequential(model.conv1, model.pool)  # type: ignore[arg-type]
    assert stem(torch.zeros(1, 3, 29, 29)).shape == (1, 16, size, size)


def test_imagenet_resnets_are_torchvisions() -> None:
    for name, millions in zip(IMAGENET_RESNETS, (11.7, 21.8, 25.6, 44.5, 60.2), strict=True):
        with torch.device("meta"):
            assert round(num_parameters(build(1000, name=name)) / 1e6, 1) == millions


def test_same_function_as_torchvision() -> None:
    torch.manual_seed(0)
    reference = torchvision.models.resnet18(num_classes=5).eval()
    model = build(name="resnet18").eval()
    model.load_state_dict(reference.state_dict())
    x = torch.rand(2, 3, 41, 37)
    torch.testing.assert_close(model(x), reference(x))


def test_small_stem_keeps_the_resolution() -> None:
    model: Any = build(name="resnet18", stem="small", in_channels=1).eval()
    x = model.maxpool(model.conv1(torch.zeros(1, 1, 29, 31)))
    assert x.shape == (1, 64, 29, 31)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Weights as torchvision publishes them, without a network."""
    torch.manual_seed(3)
    model = torchvision.models.resnet18()
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    weights = dict(model.state_dict())
    monkeypatch.setattr(resnet_imagenet, "published_weights", lambda name: weights)
    return weights


def test_pretrained_weights_are_loaded_but_for_the_last_layer(published: dict[str, Tensor]) -> None:
    state = build(name="resnet18", pretrained=True).state_dict()
    assert state["fc.weight"].shape == (5, 512)
    for name, value in published.items():
        assert name.startswith("fc.") or torch.equal(state[name], value)


def test_grey_image_gives_what_its_rgb_copy_gave(published: dict[str, Tensor]) -> None:
    grey: Any = build(name="resnet18", pretrained=True, in_channels=1)
    rgb: Any = build(name="resnet18", pretrained=True)
    x = torch.rand(2, 1, 23, 29)
    torch.testing.assert_close(grey.conv1(x), rgb.conv1(x.expand(-1, 3, -1, -1)), atol=1e-5, rtol=1e-5)


def test_frozen_backbone_neither_learns_nor_counts(published: dict[str, Tensor]) -> None:
    model = build(name="resnet18", pretrained=True, freeze_backbone=True).train()
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["fc.weight", "fc.bias"]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(torch.rand(4, 3, 33, 35)).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert model.fc.training  # type: ignore[union-attr]
    assert not any(m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d))


def test_weights_of_another_architecture_are_refused(published: dict[str, Tensor]) -> None:
    with pytest.raises(ArtifactError, match="do not fit the model"):
        build(name="resnet34", pretrained=True)


def test_missing_network_says_where_the_file_belongs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_network(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(ArtifactError, match="cannot be downloaded") as caught:
        resnet_imagenet.published_weights("resnet18")
    assert str(caught.value.expected).startswith(f"the file at {tmp_path}/checkpoints/resnet18-")
    assert "TORCH_HOME" in str(caught.value.hint)


def test_weights_without_network_come_from_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    url = torchvision.models.get_model_weights("resnet18").DEFAULT.url
    (tmp_path / "checkpoints").mkdir()
    torch.save({"conv1.weight": torch.ones(2)}, tmp_path / "checkpoints" / url.rsplit("/", 1)[-1])
    assert torch.equal(resnet_imagenet.published_weights("resnet18")["conv1.weight"], torch.ones(2))


@pytest.mark.parametrize("options", [{"name": "resnet20"}, {"name": "resnet20", "shortcut": "B"}])
def test_exported_program_takes_any_batch(options: dict[str, str]) -> None:
    model = build(in_channels=1, **options).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (torch.zeros(2, 1, 28, 28),), dynamic_shapes=({0: batch},))
    x = torch.rand(5, 1, 28, 28)
    torch.testing.assert_close(program.module()(x), model(x))


def test_table_is_the_folder(repo: Path) -> None:
    folder = repo / "lab" / "tasks" / "classification" / "models"
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert {entry.partition(":")[0].rpartition(".")[2] for entry in MODELS.entries.values()} == files
    names = ModelConfig.model_fields["name"].annotation.__args__  # type: ignore[union-attr]
    assert set(MODELS) == set(names)
