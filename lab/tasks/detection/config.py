"""Configuration of object detection. Row ids (OD-..) refer to Amazon SageMaker's hyperparameters."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from lab.config.base import LabModel
from lab.config.data import DataConfig
from lab.config.run import RunConfig


class DetectionDataConfig(DataConfig):
    """Images with boxes."""

    format: Literal["coco", "voc", "sagemaker_json", "rec", "tar", "manifest"] = "coco"
    max_objects: int = Field(128, ge=1)
    """The most objects an image may have; annotations are padded to it (OD-H14, label_width, counts 5 per object)."""
    cache_images: bool | None = None
    """Keep the decoded training images in memory; default: where they need less than 1 GB."""


class ImageConfig(LabModel):
    """The network's input: images of any size are resized to a square, aspect not preserved (OD-H13)."""

    size: int = Field(300, ge=64)
    """Height and width in pixels. 300 and 512 are the paper's; below 300 is for small pictures and small machines."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Per channel, pixels as 0..1; ImageNet's."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    antialias: bool = True
    """Average over the pixels that fall together when an image shrinks. Off is torchvision's way, for its weights."""

    @field_validator("std")
    @classmethod
    def _positive(cls, std: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(std) <= 0:
            raise ValueError("std must be positive")
        return std


class ModelConfig(LabModel):
    """Architecture and starting weights (OD-H3, H4, H17)."""

    name: Literal["vgg16", "vgg16_bn", "resnet18", "resnet34", "resnet50"] = "vgg16"
    """vgg16 is the paper's; vgg16_bn has BatchNorm, without which VGG hardly trains from random weights."""
    pretrained: bool = False
    """Start from ImageNet's backbone weights, as torchvision publishes them."""
    pyramid: Literal["stages", "layer3"] = "stages"
    """ResNets: the first feature maps. stages: layer2, layer3 and layer4, at strides 8, 16, 32. layer3: layer3 alone,
    kept at stride 8 (NVIDIA's SSD300-ResNet50): better features for small objects, about twice the work."""
    width: int = Field(64, ge=4)
    """ResNets: channels of the first stage; 64 is the published width, fewer is for small machines."""
    freeze_layer_pattern: str | None = None
    """Parameters whose name matches this regular expression stay as they are, e.g. ^(conv1_|conv2_).* or ^layer1;
    BatchNorm layers that are frozen whole keep their statistics too. Names as in `lab.tasks.detection.models`."""

    @field_validator("freeze_layer_pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return pattern

    @model_validator(mode="after")
    def _fits_family(self) -> Self:
        if self.name.startswith("vgg") and (self.pyramid, self.width) != ("stages", 64):
            raise ValueError(f"pyramid and width are options of the ResNets, not of {self.name}")
        if self.pretrained and self.width != 64:
            raise ValueError("the published weights have width 64: set width: 64, or pretrained: false")
        return self


class BoxesConfig(LabModel):
    """Default boxes and their matching (sections 2.2 of the paper)."""

    scales: tuple[float, ...] | None = None
    """Size of the default boxes of each feature map as a share of the image, and one more for the last map's larger
    square; the default is the paper's for COCO: 0.07, 0.15, ... 1.05 at 300, 0.04, 0.1, ... 1.06 at 512."""
    aspect_ratios: tuple[tuple[float, ...], ...] | None = None
    """Beside 1, for each map; each stands for itself and its inverse. Default: 2 and 3, on the first and the last two
    maps 2 alone."""
    match_iou: float = Field(0.5, gt=0, lt=1)
    """A default box with at least this overlap learns to find the object."""

    @field_validator("scales")
    @classmethod
    def _increasing(cls, scales: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if scales is not None and (list(scales) != sorted(set(scales)) or scales[0] <= 0):
            raise ValueError("scales must be positive and increasing")
        return scales


class DetectConfig(LabModel):
    """From the network's raw outputs to detections."""

    nms: Literal["graph", "host"] = "graph"
    """graph: suppression is part of the exported model. host: the model gives every box and score, and
    `deploy.postprocess` suppresses in numpy; for engines that cannot run it."""
    nms_threshold: float = Field(0.45, gt=0, le=1)
    """Of two boxes of one class that overlap by more than this, the less certain one goes (OD-H15)."""
    score_threshold: float = Field(0.01, ge=0, lt=1)
    """Less certain boxes do not take part."""
    candidates: int = Field(400, ge=1)
    """The most boxes per class that take part in suppression."""
    max_detections: int = Field(200, ge=1)
    """The most detections per image."""


class AugmentConfig(LabModel):
    """Random changes of training images: those of the paper (sections 2.2 and 3.6), as torchvision draws them."""

    photometric: bool = True
    """Brightness, contrast, saturation, hue and the order of the channels, each in half of the images."""
    permute_channels: bool = True
    """Part of photometric; off where colour tells the classes apart."""
    zoom_out: float = Field(4.0, ge=1)
    """Half of the images are placed on a canvas up to this many times as wide and high; 1 is off."""
    iou_crop: bool = True
    """Cut out a random part that overlaps with an object by at least 0 ... 0.9, or keep the image, equally often."""
    flip: bool = True
    """Horizontal flip of half of the images; turn off where left and right differ (text)."""


class LossConfig(LabModel):
    """Cross entropy with hard negative mining, and smooth L1 (section 2.2 of the paper)."""

    negatives_per_positive: float = Field(3.0, gt=0)
    box_weight: float = Field(1.0, gt=0)
    """The paper's alpha: weight of the smooth L1 loss."""


class MetricsConfig(LabModel):
    """What is measured and what picks the best weights."""

    overlap_threshold: float = Field(0.5, gt=0, le=1)
    """Overlap with the truth from which a detection counts as right in `mAP` (OD-H16)."""
    monitor: Literal["map", "map_50", "mAP"] = "map_50"
    """map is COCO's mean over overlaps 0.5 ... 0.95, map_50 the one at 0.5, mAP the one at overlap_threshold."""


class DetectionConfig(RunConfig):
    """The root of configs/detection/*.yaml."""

    task: Literal["detection"] = "detection"
    data: DetectionDataConfig
    image: ImageConfig = ImageConfig()
    model: ModelConfig = ModelConfig()
    boxes: BoxesConfig = BoxesConfig()
    detect: DetectConfig = DetectConfig()
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    metrics: MetricsConfig = MetricsConfig()
