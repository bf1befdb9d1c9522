"""VGG-16 as SSD's backbone (Liu et al. 2016, section 3): conv4_3 normalised, fc6 dilated, extra layers.

Shape letters: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lab.core.errors import ArtifactError
from lab.nn.backbones import published_weights
from lab.tasks.detection.config import ModelConfig
from lab.tasks.detection.models.extras import extra_layers, halved

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""(channels, convolutions) between two pools; configuration D of Simonyan and Zisserman 2015."""
CONVOLUTIONS = tuple(
    f"{block}_{number}" for block, (_, depth) in enumerate(BLOCKS, 1) for number in range(1, depth + 1)
)
FIRST_SCALE = 20.0
EXTRA_WIDTHS = ((256, 512), (128, 256))


def build(config: ModelConfig, size: int) -> VggFeatures:
    """Raises ArtifactError when published weights are asked for and cannot be had."""
    model = VggFeatures(size, norm=config.name == "vgg16_bn")
    if config.pretrained:
        model.load_published(config.name)
    return model


class VggFeatures(nn.Module):
    """Image [B, 3, S, S] to the maps of conv4_3 (S / 8), fc7 (S / 16) and the extra layers, down to one cell.

    conv4_3's channels are scaled to unit length in each cell, then by a learnt factor (ParseNet, Liu et al. 2015).
    """

    def __init__(self, size: int, *, norm: bool = False) -> None:
        super().__init__()
        channels = 3
        for block, (width, depth) in enumerate(BLOCKS, 1):
            for number in range(1, depth + 1):
                self.add_module(f"conv{block}_{number}", nn.Conv2d(channels, width, 3, padding=1))
                if norm:
                    self.add_module(f"bn{block}_{number}", nn.BatchNorm2d(width))
                channels = width
        self.norm = norm
        self.conv4_3_scale = nn.Parameter(torch.full((512,), FIRST_SCALE))
        self.fc6 = nn.Conv2d(512, 1024, 3, padding=6, dilation=6)
        self.fc7 = nn.Conv2d(1024, 1024, 1)
        if norm:
            self.bn6, self.bn7 = nn.BatchNorm2d(1024), nn.BatchNorm2d(1024)
        side = halved(size // 4)
        self.extras = extra_layers(side // 2, 1024, EXTRA_WIDTHS, norm=norm)
        self._initialise()

    def _initialise(self) -> None:
        """As torchvision: He's for VGG's own layers, Glorot's for SSD's."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d):
                if name.startswith("conv"):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                else:
                    nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> list[Tensor]:
        x = image
        for block in range(1, 4):
            # The third pool rounds up: 75 -> 38, not 37.
            x = F.max_pool2d(self._block(x, block), 2, 2, ceil_mode=block == 3)
        x = self._block(x, 4)
        maps = [self.conv4_3_scale.view(1, -1, 1, 1) * F.normalize(x)]
        x = F.max_pool2d(self._block(F.max_pool2d(x, 2, 2), 5), 3, 1, 1)
        x = self._activated(self._activated(x, self.fc6, "bn6"), self.fc7, "bn7")
        maps.append(x)
        for layer in self.extras:
            x = layer(x)
            maps.append(x)
        return maps

    def _block(self, x_BCHW: Tensor, block: int) -> Tensor:
        for number in range(1, BLOCKS[block - 1][1] + 1):
            name = f"{block}_{number}"
            x_BCHW = self._activated(x_BCHW, self.get_submodule(f"conv{name}"), f"bn{name}")
        return x_BCHW

    def _activated(self, x_BCHW: Tensor, convolution: nn.Module, norm: str) -> Tensor:
        x = convolution(x_BCHW)
        return F.relu(self.get_submodule(norm)(x) if self.norm else x, inplace=True)

    def load_published(self, name: str) -> None:
        """Fill in torchvision's weights of conv1_1 ... conv5_3. fc6 and fc7 start fresh, as in torchvision's SSD.

        Raises:
            ArtifactError: not in the cache and not to be downloaded, or of another architecture.
        """
        # The authors' weights for vgg16, trained on pixels of 0..255 with the mean alone subtracted.
        state = published_weights(name, "IMAGENET1K_FEATURES" if name == "vgg16" else "DEFAULT")
        own = self.state_dict()
        chosen = from_torchvision_features(state, norm=self.norm)
        wrong = [key for key, value in chosen.items() if key not in own or own[key].shape != value.shape]
        if wrong:
            raise ArtifactError("the published weights do not fit the model", got=", ".join(wrong[:5]))
        self.load_state_dict(own | chosen)


def from_torchvision_features(state: Mapping[str, Tensor], *, norm: bool) -> dict[str, Tensor]:
    """The convolutions of torchvision's `vgg16` or `vgg16_bn` ("features.<place>...") under this file's names."""
    chosen: dict[str, Tensor] = {}
    for name, place in zip(CONVOLUTIONS, feature_places(norm), strict=True):
        modules = {f"conv{name}": place} | ({f"bn{name}": place + 1} if norm else {})
        for own, theirs in modules.items():
            prefix = f"features.{theirs}."
            found = {f"{own}.{key.removeprefix(prefix)}": v for key, v in state.items() if key.startswith(prefix)}
            if not found:
                raise ArtifactError("the published weights do not fit the model", got=f"no {prefix}*")
            chosen |= found
    return chosen


def feature_places(norm: bool) -> list[int]:
    """Positions of the convolutions in torchvision's `features`: activations, norms and pools count too."""
    places, position = [], 0
    for _, depth in BLOCKS:
        places += [position + number * (3 if norm else 2) for number in range(depth)]
        position += depth * (3 if norm else 2) + 1
    return places
