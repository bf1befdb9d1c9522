"""Heads, one per file. Each entry is `build(config, in_channels, num_classes) -> nn.Module` on a ResNet's features."""

from lab.core.tables import LazyTable

HEADS = LazyTable(
    "segmentation model",
    {
        "fcn": "lab.tasks.segmentation.models.fcn:build",
        "pspnet": "lab.tasks.segmentation.models.pspnet:build",
        "deeplabv3": "lab.tasks.segmentation.models.deeplabv3:build",
    },
)
