"""ResNets for small images, with 6n + 2 layers in three stages (He et al. 2015, arXiv:1512.03385, section 4.2).

Shape letters: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lab.core.errors import ConfigError
from lab.tasks.classification.config import ModelConfig


def build(config: ModelConfig, num_classes: int, in_channels: int) -> CifarResNet:
    """The model that `config.name` ("resnet20" ... "resnet110") names."""
    return CifarResNet(
        int(config.name.removeprefix("resnet")),
        num_classes,
        in_channels=in_channels,
        width=config.width,
        shortcut=config.shortcut,
        stem_downsample=config.stem_downsample,
        zero_init_residual=config.zero_init_residual,
    )


class PaddedShortcut(nn.Module):
    """Shortcut "A": every second pixel, zeros for the channels that are new; no parameters."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        new = out_channels - in_channels
        self.before, self.after = new // 2, new - new // 2

    def forward(self, x_BCHW: Tensor) -> Tensor:
        sampled = x_BCHW[:, :, :: self.stride, :: self.stride]
        return F.pad(sampled, (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (figure 2 of the paper)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: Literal["A", "B"]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module
        if stride == 1 and in_channels == out_channels:
            self.shortcut = nn.Identity()
        elif shortcut == "A":
            self.shortcut = PaddedShortcut(in_channels, out_channels, stride)
        else:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x_BCHW)), inplace=True)
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x_BCHW), inplace=True)


class CifarResNet(nn.Module):
    """Image [B, C, H, W] to logits [B, K]; `width`, 2x and 4x channels at full, half and quarter resolution.

    Raises:
        ConfigError: depth is not 6n + 2.
    """

    def __init__(
        self,
        depth: int,
        num_classes: int,
        *,
        in_channels: int = 3,
        width: int = 16,
        shortcut: Literal["A", "B"] = "A",
        stem_downsample: Literal["none", "stride", "pool"] = "none",
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ConfigError("no such CIFAR ResNet", got=f"{depth} layers", expected="6n + 2: 20, 32, 44, 56, 110")
        blocks_per_stage = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, width, 3, 2 if stem_downsample == "stride" else 1, 1, bias=False)
        self.pool = nn.MaxPool2d(3, 2, 1) if stem_downsample == "pool" else nn.Identity()
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        stages = []
        for stage, stride in enumerate((1, 2, 2)):
            blocks = []
            for number in range(blocks_per_stage):
                blocks.append(BasicBlock(channels, width << stage, stride if number == 0 else 1, shortcut))
                channels = width << stage
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3 = stages
        self.fc = nn.Linear(channels, num_classes)
        self._initialise(zero_init_residual)

    def _initialise(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_residual and isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)

    def forward(self, image: Tensor) -> Tensor:
        # Pooling before BatchNorm and ReLU: both work on a quarter of the pixels.
        x = F.relu(self.bn1(self.pool(self.conv1(image))), inplace=True)
        x = self.layer3(self.layer2(self.layer1(x)))
        logits_BK: Tensor = self.fc(torch.mean(x, dim=(2, 3)))
        return logits_BK
