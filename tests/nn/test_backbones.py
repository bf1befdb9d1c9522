"""ResNet feature maps against torchvision's own networks with the same weights."""

from __future__ import annotations

import pytest
import torch
import torchvision

from lab.core.errors import ArtifactError, ConfigError
from lab.nn.backbones import ResNetFeatures, load_backbone


def reference_maps(network: torch.nn.Module, image: torch.Tensor) -> dict[str, torch.Tensor]:
    x = network.maxpool(network.relu(network.bn1(network.conv1(image))))
    maps = {}
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        x = maps[stage] = getattr(network, stage)(x)
    return maps


@pytest.mark.parametrize(
    ("name", "output_stride", "dilation"),
    [
        ("resnet18", 32, None),
        ("resnet50", 32, [False, False, False]),
        ("resnet50", 16, [False, False, True]),
        ("resnet50", 8, [False, True, True]),
    ],
)
def test_same_weights_same_maps(name: str, output_stride: int, dilation: list[bool] | None) -> None:
    torch.manual_seed(2)
    network = getattr(torchvision.models, name)(replace_stride_with_dilation=dilation).eval()
    ours = ResNetFeatures(name, output_stride=output_stride).eval()
    load_backbone(ours, network.state_dict(), 3)
    image = torch.randn(2, 3, 67, 43)
    with torch.inference_mode():
        found, expected = ours(image), reference_maps(network, image)
    assert list(found) == list(expected)
    for stage, x_BCHW in expected.items():
        torch.testing.assert_close(found[stage], x_BCHW, rtol=1e-5, atol=1e-5)
        assert ours.channels[stage] == x_BCHW.shape[1]
        assert -(-67 // ours.strides[stage]) == x_BCHW.shape[2]


def test_basic_blocks_are_dilated_too() -> None:
    """torchvision refuses this, so that the reference is the same network on a stride of one by hand."""
    ours = ResNetFeatures("resnet18", output_stride=8)
    dilations = [block.conv2.dilation[0] for stage in (ours.layer3, ours.layer4) for block in stage]
    firsts = [block.conv1.dilation[0] for stage in (ours.layer3, ours.layer4) for block in stage]
    assert (firsts, dilations) == ([1, 2, 2, 4], [1, 2, 2, 4])
    with torch.inference_mode():
        maps = ours.eval()(torch.randn(1, 3, 64, 64))
    assert [maps[stage].shape[-1] for stage in maps] == [16, 8, 8, 8]


def test_stages_after_the_last_wanted_one_are_not_built() -> None:
    ours = ResNetFeatures("resnet18", stages=("layer2", "layer3"), in_channels=1)
    with torch.inference_mode():
        maps = ours.eval()(torch.randn(1, 1, 64, 48))
    assert {stage: tuple(x.shape) for stage, x in maps.items()} == {"layer2": (1, 128, 8, 6), "layer3": (1, 256, 4, 3)}
    assert not hasattr(ours, "layer4")
    load_backbone(ours, torchvision.models.resnet18().state_dict(), 1)


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(ArtifactError, match="do not fit"):
        load_backbone(ResNetFeatures("resnet18"), torchvision.models.resnet50().state_dict(), 3)


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(ConfigError, match="resnet18, resnet34"):
        ResNetFeatures("resnet19")
