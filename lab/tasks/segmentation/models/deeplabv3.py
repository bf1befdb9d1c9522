"""DeepLabV3's atrous spatial pyramid pooling (Chen et al. 2017, arXiv:1706.05587, section 3.3), as in torchvision."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lab.tasks.segmentation.config import ModelConfig
from lab.tasks.segmentation.layers import ConvNormRelu

RATES = {8: (12, 24, 36), 16: (6, 12, 18), 32: (3, 6, 9)}
"""Output stride -> dilations: the paper's (6, 12, 18) at stride 16, in proportion elsewhere."""
DEFAULT_CHANNELS = 256


def build(config: ModelConfig, in_channels: int, num_classes: int) -> DeepLabHead:
    dropout = 0.5 if config.dropout is None else config.dropout
    channels = config.head_channels or DEFAULT_CHANNELS
    return DeepLabHead(in_channels, num_classes, channels, RATES[config.output_stride], dropout)


class DeepLabHead(nn.Module):
    """Features [B, C, H, W] to scores [B, K, H, W]: dilated convolutions and the image's mean side by side."""

    def __init__(
        self, in_channels: int, num_classes: int, channels: int, rates: tuple[int, ...], dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.pointwise = ConvNormRelu(in_channels, channels, 1)
        self.atrous = nn.ModuleList(ConvNormRelu(in_channels, channels, 3, rate) for rate in rates)
        self.pooled = ConvNormRelu(in_channels, channels, 1)
        self.project = ConvNormRelu(channels * (2 + len(rates)), channels, 1)
        self.dropout = nn.Dropout(dropout)
        self.refine = ConvNormRelu(channels, channels, 3)
        self.classify = nn.Conv2d(channels, num_classes, 1)

    def forward(self, features_BCHW: Tensor) -> Tensor:
        pooled_BC11 = self.pooled(features_BCHW.mean(dim=(2, 3), keepdim=True))
        pooled = F.interpolate(pooled_BC11, size=features_BCHW.shape[-2:], mode="bilinear", align_corners=False)
        branches = [self.pointwise(features_BCHW), *(branch(features_BCHW) for branch in self.atrous), pooled]
        projected = self.dropout(self.project(torch.cat(branches, dim=1)))
        scores_BKHW: Tensor = self.classify(self.refine(projected))
        return scores_BKHW
