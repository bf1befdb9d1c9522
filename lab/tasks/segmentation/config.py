"""Configuration of semantic segmentation. Row ids (SS-..) refer to Amazon SageMaker's hyperparameters."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from lab.config.base import LabModel
from lab.config.data import DataConfig
from lab.config.run import RunConfig
from lab.data.preprocess import IMAGENET_MEAN, IMAGENET_STD
from lab.tasks.segmentation.geometry import MULTIPLE, round_up

BatchNormalised = ("pspnet", "deeplabv3")
"""Heads that normalise features pooled to one value per channel and image, which needs two images per batch."""


class SegmentationDataConfig(DataConfig):
    """Images with a class per pixel; 255 in a mask is neither trained on nor counted (SS-I3)."""

    format: Literal["mask_folder", "voc", "coco", "rec", "tar", "manifest"] = "mask_folder"


class ImageConfig(LabModel):
    """How images of any size become the network's square input."""

    crop_size: int = Field(240, gt=16)
    """Side of the square that is cut for training, in pixels, rounded up to a multiple of 8 (SS-H7)."""
    base_size: int | None = Field(520, gt=16)
    """Length to which a side of an image is scaled, the aspect kept (SS-H6); None keeps every image's own size."""
    base_side: Literal["longer", "shorter"] = "longer"
    """Which side base_size is of: SageMaker's is the longer one, torchvision's and MMSegmentation's the shorter."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Training: that side is base_size times a random number of this range (SS-H6)."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    """Of images; masks are always resized by the nearest pixel."""
    channels: int = Field(3, ge=1, le=256)
    """3: RGB, to which grey images are converted. More: multi-band images (.npy files, or a data set that has them),
    whose first three channels count as RGB in augmentation and pictures."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Per channel, pixels as 0..1; also what images are padded with."""
    std: tuple[float, ...] = IMAGENET_STD

    @property
    def side(self) -> int:
        """Height and width of a training crop."""
        return round_up(self.crop_size, MULTIPLE)

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError("scale is [smallest, largest] factor, both above 0")
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"mean and std have one value per channel: {self.channels} each")
        if min(self.std) <= 0:
            raise ValueError("std must be positive")
        return self


class ModelConfig(LabModel):
    """Architecture and starting weights."""

    name: Literal["fcn", "pspnet", "deeplabv3"] = "fcn"
    """SS-H3: Long et al. 2015, Zhao et al. 2017, Chen et al. 2017."""
    backbone: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] = "resnet50"
    """SS-H1."""
    width: int = Field(64, ge=8)
    """Channels of the backbone's first stage: 64 as published; fewer are faster where data and machine are small."""
    pretrained: bool = False
    """Start the backbone from torchvision's ImageNet weights (SS-H2); the heads are always fresh."""
    freeze_backbone: bool = False
    """Train only the heads; the backbone, with its BatchNorm statistics, stays as it was published."""
    output_stride: Literal[8, 16, 32] = 8
    """Pixels of the image per pixel of the last feature map; below 32 the last stages are dilated."""
    last_stage: Literal["layer3", "layer4"] = "layer4"
    """layer3 leaves out the ResNet's widest stage, with three quarters of its weights: for small data sets and CPUs."""
    auxiliary: bool = True
    """A second head on the stage before the last that is only trained with (see loss.auxiliary_weight)."""
    head_channels: int | None = Field(None, ge=1)
    """Width of the head; default: fcn a quarter of the backbone's channels, pspnet 512, deeplabv3 256."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Before the last layer; default: fcn and pspnet 0.1, deeplabv3 0.5."""
    skips: tuple[Literal["layer1", "layer2"], ...] = ()
    """fcn: also score these finer stages and add them to the upsampled scores (FCN-8s and -4s, Long et al. 2015,
    section 4.2): finer outlines for little work."""
    refine_channels: int = Field(0, ge=0)
    """Above 0: correct the upsampled scores pixel by pixel with a small network of so many channels that sees them and
    each pixel's 5 x 5 neighbourhood; for classes that change from one pixel to the next."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.last_stage == "layer3" and self.output_stride == 32:
            raise ValueError("layer3 ends at stride 16: set output_stride to 16 or 8")
        if self.skips and self.name != "fcn":
            raise ValueError(f"skips are an option of fcn, not of {self.name}")
        if len(set(self.skips)) != len(self.skips):
            raise ValueError("a stage can be named once in skips")
        if self.pretrained and self.width != 64:
            raise ValueError("the published weights have width 64")
        if self.freeze_backbone and not self.pretrained:
            raise ValueError("freeze_backbone without pretrained would freeze random weights")
        return self


class AugmentConfig(LabModel):
    """Which training images are shown, and random changes of them beside the scale and crop of the `image` section."""

    sampling: Literal["uniform", "rare_classes"] = "uniform"
    """rare_classes: in an epoch, an image comes in proportion to the mean of 1 / sqrt(share of the class) over its
    pixels; counting reads every training mask once."""
    views_per_image: int = Field(1, ge=1)
    """Random views of an image in an epoch, on average; more for small data sets of large images."""
    flips: Literal["none", "horizontal", "all"] = "horizontal"
    """all: the eight symmetries of the square (mirrors and quarter turns), for images taken from above."""
    max_class_share: float = Field(1.0, gt=0, le=1)
    """Draw the crop again, up to ten times, while one class has more than this share of it (MMSegmentation's
    cat_max_ratio, 0.75 there); 1 is off."""
    brightness: float = Field(0.0, ge=0, le=1)
    """Largest offset of all channels, pixels as 0..1 (0.125 in the recipe of SSD and MMSegmentation)."""
    contrast: float = Field(0.0, ge=0, lt=1)
    """Largest relative change of all channels (0.5 there)."""
    saturation: float = Field(0.0, ge=0, lt=1)
    """Largest relative change of the distance from grey (0.5 there)."""
    hue_degrees: float = Field(0.0, ge=0, le=180)
    """Largest turn of the hue (36 there)."""

    @property
    def changes_colours(self) -> bool:
        return max(self.brightness, self.contrast, self.saturation, self.hue_degrees) > 0


class LossConfig(LabModel):
    """Pixel-wise cross entropy (SS-O5) and what may be added to it."""

    auxiliary_weight: float = Field(0.5, ge=0)
    """Weight of the second head's loss: 0.5 in torchvision, 0.4 in PSPNet's paper."""
    class_weights: Literal["none", "inverse_sqrt", "median_frequency"] = "none"
    """Weigh pixels by their class: 1 / sqrt(share of the training pixels), or median share / share (Eigen and Fergus
    2015, section 6.3.2); scaled to a mean of 1 over the pixels. Counting reads every training mask once."""
    max_class_weight: float = Field(10.0, ge=1)
    """Limit of class_weights, for classes of a few pixels."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    focal_gamma: float = Field(0.0, ge=0)
    """Above 0: focal loss (Lin et al. 2017, arXiv:1708.02002)."""
    jaccard_weight: float = Field(0.0, ge=0)
    """Weight of 1 - soft IoU, mean over the batch's classes (Rahman and Wang 2016): what mIoU counts, smooth."""


class EvaluationConfig(LabModel):
    """How an image of any size is segmented, in validation, evaluation and deployment alike."""

    mode: Literal["slide", "resize", "whole"] = "slide"
    """slide: windows over the scaled image, scores averaged where they overlap. resize: the image is resized to one
    window, the scores back to its own size. whole: each scaled image alone in one piece, in
    PyTorch only. Never does another image of the batch, or its padding, change the result."""
    window: int | None = Field(None, gt=16)
    """Side of the network's square input in pixels, rounded up to a multiple of 8; default: image.crop_size."""
    overlap: float = Field(1 / 3, ge=0, lt=1)
    """slide: share of a window that its neighbour covers too, at least."""


class SegmentationConfig(RunConfig):
    """The root of configs/segmentation/*.yaml."""

    task: Literal["segmentation"] = "segmentation"
    data: SegmentationDataConfig
    image: ImageConfig = ImageConfig()
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @property
    def side(self) -> int:
        """Height and width of the network's input in evaluation and deployment."""
        return round_up(self.evaluation.window or self.image.crop_size, MULTIPLE)

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        if self.model.name in BatchNormalised and self.train.batch_size < 2:
            raise ValueError(f"{self.model.name} normalises pooled features over the batch: train.batch_size 2 or more")
        if self.augment.changes_colours and self.image.channels < 3:
            raise ValueError("changes of brightness, contrast, saturation and hue need image.channels of 3 or more")
        counts = self.loss.class_weights != "none" or self.augment.sampling != "uniform"
        if counts and self.data.mode == "stream":
            raise ValueError(
                "loss.class_weights and augment.sampling count the pixels of all training masks: not with mode stream"
            )
        return self
