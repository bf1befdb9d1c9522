"""ResNets as SSD's backbone, with extra layers behind.

Shape letters: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from torch import Tensor, nn

from lab.nn.backbones import ResNetFeatures
from lab.tasks.detection.config import ModelConfig
from lab.tasks.detection.models.extras import extra_layers, halved

STAGES = {"stages": ("layer2", "layer3", "layer4"), "layer3": ("layer3",)}
WIDE, NARROW = (256, 512), (128, 256)


def build(config: ModelConfig, size: int) -> ResNetMaps:
    """Raises ArtifactError when published weights are asked for and cannot be had."""
    model = ResNetMaps(config.name, size, config.pyramid, config.width)
    if config.pretrained:
        model.load_published(config.name)
    return model


class ResNetMaps(ResNetFeatures):
    """Image [B, 3, S, S] to feature maps from S / 8 down to one cell.

    pyramid "stages": layer2, layer3, layer4 (strides 8, 16, 32), then extra layers. "layer3": layer3 kept at stride 8,
    and extra layers for all the others, as in NVIDIA's SSD300 (DeepLearningExamples, PyTorch/Detection/SSD). With a
    `width` below 64 the extra layers are as much narrower as the ResNet.
    """

    def __init__(self, name: str, size: int, pyramid: str, width: int = 64) -> None:
        super().__init__(name, stages=STAGES[pyramid], output_stride=8 if pyramid == "layer3" else 32, width=width)
        side = halved(halved(halved(size)))
        if pyramid == "layer3":
            _undilate(self.get_submodule("layer3"))
            widths: tuple[tuple[int, int], ...] = (WIDE, WIDE, NARROW)
        else:
            side = halved(halved(side))
            widths = (WIDE, NARROW) if name == "resnet50" else (NARROW,)
        scaled = [(reduced * width // 64, out * width // 64) for reduced, out in widths]
        self.extras = extra_layers(side, self.channels[self.stages[-1]], scaled, norm=True)
        for module in self.extras.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> list[Tensor]:  # type: ignore[override]  # the maps of a pyramid, in order
        maps = list(super().forward(image).values())
        for layer in self.extras:
            maps.append(layer(maps[-1]))
        return maps


def _undilate(layer: nn.Module) -> None:
    """Keep the resolution without dilation, as NVIDIA does: the smallest boxes need a small view."""
    for module in layer.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            module.dilation = module.padding = (1, 1)
