"""The fully convolutional head (Long et al. 2015, arXiv:1411.4038), as in torchvision; also every auxiliary head."""

from __future__ import annotations

from torch import Tensor, nn

from lab.tasks.segmentation.config import ModelConfig
from lab.tasks.segmentation.layers import ConvNormRelu


def build(config: ModelConfig, in_channels: int, num_classes: int) -> FCNHead:
    dropout = 0.1 if config.dropout is None else config.dropout
    return FCNHead(in_channels, num_classes, config.head_channels or in_channels // 4, dropout)


class FCNHead(nn.Module):
    """Features [B, C, H, W] to scores [B, K, H, W]."""

    def __init__(self, in_channels: int, num_classes: int, channels: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.reduce = ConvNormRelu(in_channels, channels, 3)
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Conv2d(channels, num_classes, 1)

    def forward(self, features_BCHW: Tensor) -> Tensor:
        scores_BKHW: Tensor = self.classify(self.dropout(self.reduce(features_BCHW)))
        return scores_BKHW
