"""ImageNet's ResNets: torchvision's backbones with published weights, for any number of channels and classes."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.resnet import ResNet

from lab.nn.backbones import RESNETS, load_backbone, published_weights
from lab.tasks.classification.config import ModelConfig


def build(config: ModelConfig, num_classes: int, in_channels: int) -> ResNetClassifier:
    """The model that `config.name` names, with ImageNet's weights below a new last layer if so configured.

    Raises:
        ArtifactError: the weights are not here and cannot be downloaded.
    """
    model = ResNetClassifier(config, num_classes, in_channels)
    if config.pretrained:
        load_backbone(model, published_weights(config.name), in_channels)
    if config.freeze_backbone:
        model.freeze_backbone()
    return model


class ResNetClassifier(ResNet):  # type: ignore[misc]  # torchvision ships no types
    """torchvision's ResNet; `stem: small` keeps the resolution, and a frozen backbone stays in evaluation mode."""

    def __init__(self, config: ModelConfig, num_classes: int, in_channels: int) -> None:
        block, layers = RESNETS[config.name]
        super().__init__(block, list(layers), num_classes=num_classes, zero_init_residual=config.zero_init_residual)
        if config.stem == "small":
            self.conv1 = nn.Conv2d(in_channels, 64, 3, 1, 1, bias=False)
            self.maxpool = nn.Identity()
        elif in_channels != 3:
            self.conv1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.backbone_frozen = False

    def forward(self, image: Tensor) -> Tensor:
        logits_BK: Tensor = self._forward_impl(image)
        return logits_BK

    def freeze_backbone(self) -> None:
        """Train only `fc`; BatchNorm keeps its published statistics."""
        self.backbone_frozen = True
        self.requires_grad_(False)
        self.fc.requires_grad_(True)
        self.train(self.training)

    def train(self, mode: bool = True) -> ResNetClassifier:
        super().train(mode)
        if self.backbone_frozen:
            for name, child in self.named_children():
                child.train(mode and name == "fc")
        return self
