"""PSPNet's pyramid pooling head (Zhao et al. 2017, arXiv:1612.01105, section 3.2).

Shape letters: B batch, C channels, H height, W width, N bins.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lab.tasks.segmentation.config import ModelConfig
from lab.tasks.segmentation.layers import ConvNormRelu

BINS = (1, 2, 3, 6)
DEFAULT_CHANNELS = 512


def build(config: ModelConfig, in_channels: int, num_classes: int) -> PSPHead:
    dropout = 0.1 if config.dropout is None else config.dropout
    return PSPHead(in_channels, num_classes, config.head_channels or DEFAULT_CHANNELS, dropout)


class PSPHead(nn.Module):
    """Features [B, C, H, W] to scores [B, K, H, W]: averages over 1, 4, 9 and 36 parts of the map beside the map."""

    def __init__(self, in_channels: int, num_classes: int, channels: int, dropout: float = 0.1) -> None:
        super().__init__()
        width = in_channels // len(BINS)
        self.pyramid = nn.ModuleList(ConvNormRelu(in_channels, width, 1) for _ in BINS)
        self.fuse = ConvNormRelu(in_channels + width * len(BINS), channels, 3)
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Conv2d(channels, num_classes, 1)

    def forward(self, features_BCHW: Tensor) -> Tensor:
        size = features_BCHW.shape[-2:]
        levels = [features_BCHW]
        for convolution, num_bins in zip(self.pyramid, BINS, strict=True):
            pooled = convolution(average_pool(features_BCHW, num_bins))
            levels.append(F.interpolate(pooled, size=size, mode="bilinear", align_corners=False))
        scores_BKHW: Tensor = self.classify(self.dropout(self.fuse(torch.cat(levels, dim=1))))
        return scores_BKHW


def average_pool(x_BCHW: Tensor, num_bins: int) -> Tensor:
    """Means over num_bins x num_bins parts, equal to nn.AdaptiveAvgPool2d.

    Two products with constant matrices: adaptive pooling has no ONNX operator for sizes that the bins do not divide.
    """
    if num_bins == 1:
        return x_BCHW.mean(dim=(2, 3), keepdim=True)
    rows_NH = averaging_matrix(x_BCHW.shape[2], num_bins).to(x_BCHW)
    columns_WN = averaging_matrix(x_BCHW.shape[3], num_bins).T.to(x_BCHW)
    return torch.matmul(rows_NH, torch.matmul(x_BCHW, columns_WN))


def averaging_matrix(length: int, num_bins: int) -> Tensor:
    """Float32 [N, length]: row n averages the places floor(n * length / N) up to ceil((n + 1) * length / N)."""
    matrix_NL = torch.zeros(num_bins, length)
    for index in range(num_bins):
        first, end = index * length // num_bins, -(-(index + 1) * length // num_bins)
        matrix_NL[index, first:end] = 1 / (end - first)
    return matrix_NL
