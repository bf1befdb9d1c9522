"""ImageNet's ResNets: torchvision's backbones with published weights, for any number of channels and classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from lab.core.errors import ArtifactError, IntegrityError
from lab.tasks.classification.config import ModelConfig

_LAYERS = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
}


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
        block, layers = _LAYERS[config.name]
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


def load_backbone(model: nn.Module, weights: dict[str, Tensor], in_channels: int) -> None:
    """Copy all weights but the last layer's; the first convolution's are adapted to `in_channels`.

    Raises:
        ArtifactError: the weights are not those of this architecture.
    """
    kept = {name: value for name, value in weights.items() if not name.startswith("fc.")}
    kept["conv1.weight"] = adapt_first_convolution(kept["conv1.weight"], in_channels)
    try:
        result = model.load_state_dict(kept, strict=False)
    except RuntimeError as error:
        raise ArtifactError("the published weights do not fit the model", got=error) from error
    wrong = [name for name in (*result.missing_keys, *result.unexpected_keys) if not name.startswith("fc.")]
    if wrong:
        raise ArtifactError("the published weights do not fit the model", got=", ".join(wrong[:5]))


def adapt_first_convolution(weight_OIHW: Tensor, in_channels: int) -> Tensor:
    """RGB filters for another number of channels.

    For one channel the sum over RGB, so that a grey image gives what its RGB copy gave; otherwise the filters repeat,
    scaled to keep the response to equal channels.
    """
    found = weight_OIHW.shape[1]
    if in_channels == found:
        return weight_OIHW
    if in_channels == 1:
        return weight_OIHW.sum(dim=1, keepdim=True)
    index = torch.arange(in_channels) % found
    return weight_OIHW[:, index] * (found / in_channels)


def published_weights(name: str) -> dict[str, Tensor]:
    """torchvision's best ImageNet weights of `name`, from torch hub's cache or downloaded into it.

    Raises:
        ArtifactError: not in the cache, and the download failed; says where to put the file.
        IntegrityError: the downloaded file has another hash.
    """
    weights: Any = torchvision.models.get_model_weights(name).DEFAULT
    cache = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[-1]
    try:
        state: dict[str, Tensor] = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except OSError as error:  # URLError and HTTPError are OSErrors
        raise ArtifactError(
            f"the published weights of {name} cannot be downloaded",
            got=f"{weights.url}: {getattr(error, 'reason', error)}",
            expected=f"the file at {cache}",
            hint=f"download {weights.url} where there is a network and put it there (TORCH_HOME moves the cache)",
        ) from error
    except RuntimeError as error:
        raise IntegrityError(
            f"the published weights of {name} are damaged", got=error, hint=f"remove {cache} and try again"
        ) from error
    return state
