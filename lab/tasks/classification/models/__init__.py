"""Architectures, one family per file. Each entry is `build(config, num_classes, in_channels) -> nn.Module`."""

from lab.core.tables import LazyTable

IMAGENET_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
CIFAR_RESNETS = ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110")

MODELS = LazyTable(
    "model",
    dict.fromkeys(IMAGENET_RESNETS, "lab.tasks.classification.models.resnet_imagenet:build")
    | dict.fromkeys(CIFAR_RESNETS, "lab.tasks.classification.models.resnet_cifar:build"),
)
