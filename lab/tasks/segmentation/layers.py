"""Layers that the heads share. B batch, C channels, H height, W width."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConvNormRelu(nn.Module):
    """Convolution without bias, batch normalisation, ReLU; the size stays."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, dilation: int = 1) -> None:
        super().__init__()
        padding = dilation * (kernel // 2)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW: Tensor = self.relu(self.norm(self.conv(x_BCHW)))
        return y_BCHW


class PixelRefiner(nn.Module):
    """Scores [B, K, H, W] of an image's own size to better ones: what a pixel looks like, given what is around it.

    Without normalisation: statistics of a batch of few, each nearly uniform, images would hide the colours themselves.
    """

    def __init__(self, num_classes: int, channels: int, in_channels: int = 3) -> None:
        super().__init__()
        self.look = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
        )
        self.mix = nn.Sequential(nn.Conv2d(channels + num_classes, channels, 1), nn.ReLU(inplace=True))
        self.correct = nn.Conv2d(channels, num_classes, 1)

    def forward(self, scores_BKHW: Tensor, image: Tensor) -> Tensor:
        mixed = self.mix(torch.cat((self.look(image), scores_BKHW), dim=1))
        refined: Tensor = scores_BKHW + self.correct(mixed)
        return refined
