"""Configuration of image classification. Row ids (IC-..) refer to Amazon SageMaker's hyperparameters."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from lab.config.base import LabModel
from lab.config.data import DataConfig
from lab.config.run import RunConfig
from lab.tasks.classification.models import CIFAR_RESNETS, IMAGENET_RESNETS


class ClassificationDataConfig(DataConfig):
    """Images with a class, or several, each."""

    format: Literal["image_folder", "idx", "lst", "rec", "tar", "manifest"] = "image_folder"
    label_format: Literal["class", "multi-hot", "class-id"] = "class"
    """lst, rec, manifest: what the labels are (IC-I5); the last two are for loss.multi_label."""


class ImageConfig(LabModel):
    """The network's input and how images of any size become it (IC-H14, H25)."""

    shape: tuple[int, int, int] = (3, 224, 224)
    """Channels, height, width; images are converted to so many channels."""
    resize: int | None = Field(None, ge=1)
    """Scale the shorter side to so many pixels before cropping; at least the larger of height and width."""
    crop: Literal["center", "none"] = "center"
    """Without augmentation: center cuts from the middle; none resizes to height x width, aspect not preserved."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    mean: tuple[float, ...] | None = None
    """Per channel, pixels as 0..1. Default: measured on the training images when these are in memory and the model is
    not pretrained, else ImageNet's."""
    std: tuple[float, ...] | None = None

    @field_validator("shape")
    @classmethod
    def _usable_shape(cls, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        if shape[0] not in (1, 3) or min(shape[1:]) < 8:
            raise ValueError("shape is [channels, height, width] with 1 or 3 channels and at least 8 x 8 pixels")
        return shape

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.resize is not None and self.crop == "center" and self.resize < max(self.shape[1:]):
            raise ValueError(f"resize {self.resize} leaves images smaller than {self.shape[1]} x {self.shape[2]}")
        if (self.mean is None) != (self.std is None):
            raise ValueError("give both mean and std, or neither")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != self.shape[0]:
                raise ValueError(f"{name} needs one value for each of the {self.shape[0]} channels, got {len(values)}")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError("std must be positive")
        return self


class ModelConfig(LabModel):
    """Architecture and starting weights (IC-H22, H27)."""

    name: Literal[
        "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
        "resnet20", "resnet32", "resnet44", "resnet56", "resnet110",
    ] = "resnet18"  # fmt: skip
    """resnet18..152 are ImageNet's (torchvision); resnet20..110 are CIFAR's, for small images."""
    pretrained: bool = False
    """Start from torchvision's ImageNet weights with a new last layer; resnet18..152 only."""
    freeze_backbone: bool = False
    """Train only the last layer; the rest, with its BatchNorm statistics, stays as it was published."""
    stem: Literal["imagenet", "small"] = "imagenet"
    """resnet18..152: small has a 3x3 convolution for the 7x7 stride-2 one and the max-pool; for small images."""
    width: int = Field(16, ge=1)
    """resnet20..110: channels of the first stage; the others have 2x and 4x."""
    shortcut: Literal["A", "B"] = "A"
    """resnet20..110: where the shape changes, A pads with zeros (the paper's), B is a 1x1 convolution."""
    stem_downsample: Literal["none", "stride", "pool"] = "none"
    """resnet20..110: halve the resolution at the start, by a stride-2 first convolution or by a max-pool after it: four
    times less work for the stages, for little accuracy (pool loses the least)."""
    zero_init_residual: bool = False
    """Start each block as the identity (last BatchNorm scale 0)."""

    @model_validator(mode="after")
    def _fits_family(self) -> Self:
        if self.name in IMAGENET_RESNETS:
            if (self.width, self.shortcut, self.stem_downsample) != (16, "A", "none"):
                raise ValueError(
                    f"width, shortcut and stem_downsample are options of {', '.join(CIFAR_RESNETS)}, not of {self.name}"
                )
        elif self.pretrained:
            raise ValueError(
                f"there are no published weights of {self.name}; pretrained fits {', '.join(IMAGENET_RESNETS)}"
            )
        elif self.stem != "imagenet":
            raise ValueError(f"stem is an option of {', '.join(IMAGENET_RESNETS)}; {self.name} always has a small one")
        if self.pretrained and self.stem == "small":
            raise ValueError("the published weights have the imagenet stem: set stem: imagenet, or pretrained: false")
        if self.freeze_backbone and not self.pretrained:
            raise ValueError("freeze_backbone without pretrained would freeze random weights")
        return self


class AugmentConfig(LabModel):
    """Random changes of training images. The levels and their ranges are SageMaker's (IC-H3)."""

    level: Literal["none", "crop", "crop_color", "crop_color_transform"] = "none"
    """crop: random crop and horizontal flip. crop_color: and offsets within [-36, 36] of hue (0..180) and [-50, 50] of
    saturation and lightness (0..255). crop_color_transform: and rotation up to 10 degrees, shear up to 0.1, change of
    the aspect ratio up to 0.25."""
    flip: bool = True
    """Horizontal flip with the crop; turn off where left and right differ (digits, text)."""
    crop_padding: int = Field(0, ge=0)
    """Black pixels added on every side before the random crop (4 in the CIFAR recipe)."""
    crop_scale: tuple[float, float] | None = None
    """Instead of a crop of fixed size: a random part of the image of this share of its area, and an aspect ratio of
    3/4..4/3, resized (the ImageNet recipe; [0.08, 1.0] or [0.35, 1.0])."""
    mixup_alpha: float = Field(0.0, ge=0)
    """Beta parameter of mixup (Zhang et al. 2018); 0 is off."""
    cutmix_alpha: float = Field(0.0, ge=0)
    """Beta parameter of CutMix (Yun et al. 2019); 0 is off. With both on, each batch gets one of them."""
    mix_probability: float = Field(1.0, ge=0, le=1)
    """Share of the batches that mixup or CutMix changes."""

    @model_validator(mode="after")
    def _needs_crop(self) -> Self:
        if self.level == "none" and (self.crop_padding or self.crop_scale):
            raise ValueError("crop_padding and crop_scale are options of the random crop: set level to crop or more")
        if self.crop_scale is not None:
            low, high = self.crop_scale
            if not 0 < low <= high <= 1:
                raise ValueError("crop_scale is [smallest, largest] share of the area, within 0..1")
            if self.crop_padding:
                raise ValueError("crop_padding and crop_scale exclude each other")
        return self


class LossConfig(LabModel):
    """Cross entropy, or binary cross entropy per class with multi_label."""

    label_smoothing: float = Field(0.0, ge=0, lt=1)
    multi_label: bool = False
    """Any number of classes per image (IC-H21)."""
    weighted: bool = False
    """multi_label: weigh the positives of each class by negatives / positives in the training data (IC-H28)."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.weighted and not self.multi_label:
            raise ValueError("weighted needs multi_label: true")
        if self.label_smoothing and self.multi_label:
            raise ValueError("label_smoothing is for one class per image; with multi_label set it to 0")
        return self


class MetricsConfig(LabModel):
    """What is measured beside accuracy."""

    top_k: int | None = Field(None, ge=2)
    """Also the share of samples whose class is among the k most probable (IC-H26)."""


class ClassificationConfig(RunConfig):
    """The root of configs/classification/*.yaml."""

    task: Literal["classification"] = "classification"
    data: ClassificationDataConfig
    image: ImageConfig = ImageConfig()
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    metrics: MetricsConfig = MetricsConfig()

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        if self.loss.multi_label and self.data.dataset is not None:
            raise ValueError("the catalog's data sets have one class per image: set loss.multi_label: false")
        if self.data.format in ("lst", "rec", "manifest") and self.loss.multi_label != (
            self.data.label_format != "class"
        ):
            raise ValueError("loss.multi_label goes with data.label_format multi-hot or class-id, and only with these")
        if self.data.format == "image_folder" and self.data.dataset is None and self.loss.multi_label:
            raise ValueError("an image folder has one class per image; several need data.format: lst")
        if self.loss.multi_label and self.metrics.top_k:
            raise ValueError("metrics.top_k is for one class per image; leave it out with loss.multi_label")
        if self.augment.crop_scale is not None and self.augment.level == "crop_color_transform":
            raise ValueError("augment.crop_scale changes the aspect itself: use level crop or crop_color with it")
        return self
