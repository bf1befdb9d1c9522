"""A ResNet, a head and an auxiliary head; and torchvision's state dicts under our names.

Shape letters: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lab.core.errors import ConfigError
from lab.nn.backbones import ResNetFeatures
from lab.tasks.segmentation.config import ModelConfig
from lab.tasks.segmentation.layers import PixelRefiner
from lab.tasks.segmentation.models import HEADS
from lab.tasks.segmentation.models.fcn import FCNHead

BEFORE = {"layer4": "layer3", "layer3": "layer2"}
"""The stage that the auxiliary head is on, by the last stage."""


class SegmentationNetwork(nn.Module):
    """Image [B, C, H, W] to scores [B, K, H, W] (logits) at the image's size, upsampled bilinearly.

    In training mode forward returns (scores, auxiliary scores), or (scores,) without an auxiliary head; in evaluation
    mode the scores alone.
    """

    def __init__(self, config: ModelConfig, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.last, self.before = config.last_stage, BEFORE[config.last_stage]
        stages = (*config.skips, self.before, self.last)
        self.backbone = ResNetFeatures(
            config.backbone,
            stages=stages,
            in_channels=in_channels,
            output_stride=config.output_stride,
            width=config.width,
        )
        channels = self.backbone.channels
        self.head: nn.Module = HEADS[config.name](config, channels[self.last], num_classes)
        self.auxiliary: FCNHead | None = None
        if config.auxiliary:
            self.auxiliary = FCNHead(channels[self.before], num_classes, channels[self.before] // 4)
        self.skips = nn.ModuleDict({stage: nn.Conv2d(channels[stage], num_classes, 1) for stage in config.skips})
        for skip in self.skips.values():
            # As in the paper: new scores start at zero, so that the net first is the one without them.
            nn.init.zeros_(cast(nn.Conv2d, skip).weight)
            nn.init.zeros_(cast(Tensor, cast(nn.Conv2d, skip).bias))
        self.refiner: PixelRefiner | None = None
        if config.refine_channels:
            self.refiner = PixelRefiner(num_classes, config.refine_channels, in_channels)
        self.backbone_frozen = False
        if config.pretrained:
            self.backbone.load_published(config.backbone)
        if config.freeze_backbone:
            self.freeze_backbone()

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        features = self.backbone(image)
        scores = self._scores(features, image)
        if not self.training:
            return scores
        if self.auxiliary is None:
            return (scores,)
        return scores, _upsampled(self.auxiliary(features[self.before]), image)

    def raw(self, image: Tensor) -> dict[str, Tensor]:
        """{"out", "aux"} as torchvision's models return, in either mode."""
        features = self.backbone(image)
        raw = {"out": self._scores(features, image)}
        if self.auxiliary is not None:
            raw["aux"] = _upsampled(self.auxiliary(features[self.before]), image)
        return raw

    def _scores(self, features: Mapping[str, Tensor], image: Tensor) -> Tensor:
        scores_BKHW: Tensor = self.head(features[self.last])
        # From coarse to fine; ModuleDict keeps the configured order, stages are strictly finer downwards.
        for stage in sorted(self.skips, reverse=True):
            finer = self.skips[stage](features[stage])
            scores_BKHW = _upsampled(scores_BKHW, finer) + finer
        scores_BKHW = _upsampled(scores_BKHW, image)
        return scores_BKHW if self.refiner is None else self.refiner(scores_BKHW, image)

    def freeze_backbone(self) -> None:
        """Train only the heads; BatchNorm keeps its published statistics."""
        self.backbone_frozen = True
        self.backbone.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> SegmentationNetwork:
        super().train(mode)
        if self.backbone_frozen:
            self.backbone.eval()
        return self


def _upsampled(scores_BKHW: Tensor, like: Tensor) -> Tensor:
    if scores_BKHW.shape[-2:] == like.shape[-2:]:
        return scores_BKHW
    return F.interpolate(scores_BKHW, size=like.shape[-2:], mode="bilinear", align_corners=False)


# ---- torchvision's names -------------------------------------------------------------------------------------------

_FCN = {"reduce.conv": "0", "reduce.norm": "1", "classify": "4"}
_DEEPLAB = {
    "pointwise.conv": "0.convs.0.0",
    "pointwise.norm": "0.convs.0.1",
    **{f"atrous.{n}.{layer}": f"0.convs.{n + 1}.{i}" for n in range(3) for i, layer in enumerate(("conv", "norm"))},
    "pooled.conv": "0.convs.4.1",
    "pooled.norm": "0.convs.4.2",
    "project.conv": "0.project.0",
    "project.norm": "0.project.1",
    "refine.conv": "1",
    "refine.norm": "2",
    "classify": "4",
}
_HEADS = {"fcn": _FCN, "deeplabv3": _DEEPLAB}
PUBLISHED = ("fcn_resnet50", "fcn_resnet101", "deeplabv3_resnet50", "deeplabv3_resnet101")
"""torchvision's models of this kind: COCO images with the 21 classes of Pascal VOC."""


def key_map(name: str) -> dict[str, str]:
    """Our module -> torchvision's, for one of `PUBLISHED`: heads differ, backbone.* has the same names."""
    head = {f"head.{ours}": f"classifier.{theirs}" for ours, theirs in _HEADS[name.split("_")[0]].items()}
    return head | {f"auxiliary.{ours}": f"aux_classifier.{theirs}" for ours, theirs in _FCN.items()}


def from_torchvision(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of torchvision's model `name` under our names.

    Raises:
        ConfigError: a tensor is not part of that model.
    """
    modules = {theirs: ours for ours, theirs in key_map(name).items()}
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        module, _, tensor = key.rpartition(".")
        if not key.startswith("backbone.") and module not in modules:
            raise ConfigError(f"torchvision's {name} has no tensor '{key}'", expected=", ".join(sorted(modules)))
        renamed[key if key.startswith("backbone.") else f"{modules[module]}.{tensor}"] = value
    return renamed


def without_auxiliary(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.startswith("auxiliary.")}


def build_network(config: ModelConfig, num_classes: int, seed: int, in_channels: int = 3) -> SegmentationNetwork:
    """A fresh network whose initial weights depend on `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SegmentationNetwork(config, num_classes, in_channels)
