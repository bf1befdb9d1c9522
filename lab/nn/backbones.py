"""ResNet backbones that give feature maps: torchvision's layers under torchvision's names, with its published weights.

Shape letters: B batch, C channels, H height, W width; O and I output and input channels of a filter.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from lab.core.errors import ArtifactError, ConfigError, IntegrityError

RESNETS = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
}
"""Name -> (block, blocks per stage), as in He et al. 2016, table 1."""
STAGES = ("layer1", "layer2", "layer3", "layer4")


class ResNetFeatures(nn.Module):
    """A ResNet without its classifier: image [B, C, H, W] -> {stage: [B, channels, H / stride, W / stride]}.

    `output_stride` 16 or 8 keeps the resolution of the last one or two stages and dilates their convolutions instead
    (torchvision's replace_stride_with_dilation, Yu and Koltun 2016), also for the basic blocks of ResNet-18 and 34,
    where torchvision has no dilation. Stages after the last one of `stages` are not built. `width` is the number of
    channels of the first stage: 64 in the published models, fewer for small machines.
    """

    def __init__(
        self,
        name: str,
        *,
        stages: Sequence[str] = STAGES,
        in_channels: int = 3,
        output_stride: int = 32,
        width: int = 64,
    ) -> None:
        super().__init__()
        if name not in RESNETS or output_stride not in (8, 16, 32) or not stages or set(stages) - set(STAGES):
            raise ConfigError(
                "unknown backbone",
                got=f"{name}, output stride {output_stride}, stages {list(stages)}",
                expected=f"{', '.join(RESNETS)}; output stride 8, 16, 32; stages {', '.join(STAGES)}",
            )
        block, layers = RESNETS[name]
        source = ResNet(block, list(layers), num_classes=1) if width == 64 else _narrow(block, layers, width)
        self.stages = tuple(stages)
        self.conv1 = source.conv1 if in_channels == 3 else nn.Conv2d(in_channels, width, 7, 2, 3, bias=False)
        if in_channels != 3:
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1, self.relu, self.maxpool = source.bn1, source.relu, source.maxpool
        self.channels: dict[str, int] = {}
        self.strides: dict[str, int] = {}
        dilation, stride = 1, 4
        for number, stage in enumerate(STAGES[: STAGES.index(max(stages)) + 1]):
            layer = getattr(source, stage)
            if number and stride == output_stride:
                _dilate(layer, dilation)
                dilation *= 2
            elif number:
                stride *= 2
            self.add_module(stage, layer)
            self.channels[stage], self.strides[stage] = width * 2**number * block.expansion, stride

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x_BCHW = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        features: dict[str, Tensor] = {}
        for stage in self.channels:
            x_BCHW = getattr(self, stage)(x_BCHW)
            if stage in self.stages:
                features[stage] = x_BCHW
        return features

    def load_published(self, name: str) -> None:
        """Fill in torchvision's best ImageNet weights of `name`. Raises ArtifactError as `published_weights`."""
        load_backbone(self, published_weights(name), self.conv1.in_channels)


def _narrow(block: Any, layers: Sequence[int], width: int) -> Any:
    """A ResNet whose stages have `width`, 2, 4 and 8 times `width` channels; torchvision's start at 64."""
    model: Any = ResNet(block, [1, 1, 1, 1], num_classes=1)
    model.conv1, model.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
    model.inplanes = width
    for number, (stage, depth) in enumerate(zip(STAGES, layers, strict=True)):
        setattr(model, stage, model._make_layer(block, width << number, depth, stride=1 if number == 0 else 2))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def _dilate(layer: nn.Sequential, before: int) -> None:
    """Take a stage's stride away; its first block keeps the dilation `before`, the others get twice that."""
    for number, block in enumerate(layer):
        dilation = before if number == 0 else 2 * before
        for convolution in block.modules():
            if isinstance(convolution, nn.Conv2d):
                convolution.stride = (1, 1)
                if convolution.kernel_size == (3, 3):
                    convolution.dilation = convolution.padding = (dilation, dilation)
        block.stride = 1  # type: ignore[assignment]  # what torchvision's block keeps beside its convolutions


def load_backbone(model: nn.Module, weights: dict[str, Tensor], in_channels: int) -> None:
    """Copy all weights but the classifier's and those of stages the model lacks; the first convolution's are adapted.

    Raises:
        ArtifactError: the weights are not those of this architecture.
    """
    children = {name for name, _ in model.named_children()}
    kept = {name: value for name, value in weights.items() if not name.startswith("fc.")}
    kept = {name: value for name, value in kept.items() if name.split(".")[0] in children}
    kept["conv1.weight"] = adapt_first_convolution(weights["conv1.weight"], in_channels)
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


def published_weights(name: str, weights: str = "DEFAULT") -> dict[str, Tensor]:
    """torchvision's published weights of the model `name`, from torch hub's cache or downloaded into it.

    `weights` names an entry of torchvision's weights enum, e.g. "COCO_V1"; DEFAULT is its best.

    Raises:
        ArtifactError: not in the cache, and the download failed; says where to put the file.
        IntegrityError: the downloaded file has another hash.
    """
    entry: Any = getattr(torchvision.models.get_model_weights(name), weights)
    cache = Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rsplit("/", 1)[-1]
    try:
        state: dict[str, Tensor] = entry.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except OSError as error:  # URLError and HTTPError are OSErrors
        raise ArtifactError(
            f"the published weights of {name} cannot be downloaded",
            got=f"{entry.url}: {getattr(error, 'reason', error)}",
            expected=f"the file at {cache}",
            hint=f"download {entry.url} where there is a network and put it there (TORCH_HOME moves the cache)",
        ) from error
    except RuntimeError as error:
        raise IntegrityError(
            f"the published weights of {name} are damaged", got=error, hint=f"remove {cache} and try again"
        ) from error
    return state
