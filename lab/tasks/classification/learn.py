"""The learning half of classification: model, loaders, augmentation on the device, loss, metrics, plots.

Shape letters: B batch, C channels, H height, W width, K classes, N samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MultilabelAccuracy

from lab.core.errors import ConfigError, DataError
from lab.core.seeding import stream_seed
from lab.core.signature import Signature
from lab.data.dataset import ImageDataset
from lab.data.preprocess import (
    ImagePreprocessing,
    check_large_enough,
    fit_all,
    normalization,
    resize_shorter,
    to_channels,
)
from lab.data.sampling import epoch_order
from lab.data.splits import SplitName
from lab.nn.backbones import published_weights
from lab.nn.learning import OneCall, ResumableLoader
from lab.nn.loaders import MemoryLoader, WorkerLoader, pins_memory
from lab.nn.normalize import Normalize
from lab.nn.stream_loader import training_stream
from lab.tasks.classification import augment, deploy, plots
from lab.tasks.classification.config import ClassificationConfig
from lab.tasks.classification.data import ClassificationSplits, describe, preprocessing_of
from lab.tasks.classification.models import IMAGENET_RESNETS, MODELS
from lab.tasks.classification.samples import EvalSample, StreamSample, TrainSample


class ClassificationTask(OneCall):
    """`lab.nn.learning.LearningTask` for one configuration; data is read when first needed.

    A batch is {"image", "target"}: from the loaders uint8 [B, C, H, W], after `on_device` normalised float32; targets
    are class indices [B], or float [B, K] (multi-hot, or mixed by mixup and CutMix).
    """

    monitor = "accuracy"
    monitor_mode: Literal["max", "min"] = "max"

    def __init__(self, config: ClassificationConfig) -> None:
        self.config = config
        self.splits = ClassificationSplits(config)

    @property
    def labels(self) -> tuple[str, ...]:
        return self.splits.labels

    @cached_property
    def image_preprocessing(self) -> ImagePreprocessing:
        return preprocessing_of(self.config, None if self.splits.is_stream else self.splits.labelled_train)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """For the manifest; `deploy.preprocess` reads it."""
        own = {deploy.MULTI_LABEL: True} if self.config.loss.multi_label else {}
        return self.image_preprocessing.to_dict() | own

    @property
    def signature(self) -> Signature:
        return deploy.signature(self.config.image.shape, len(self.labels))

    def eval_dataset(self, split: SplitName) -> ImageDataset:
        """The samples of a split as they are on disk. Raises DataError when there is no such split."""
        return self.splits.get(split)

    def dataset_card(self) -> dict[str, Any]:
        return self.splits.card(describe)

    def score_options(self) -> dict[str, Any]:
        """Further arguments of `deploy.score`."""
        return {"top_k": self.config.metrics.top_k}

    def has_split(self, split: SplitName) -> bool:
        return self.splits.has(split)

    def build_model(self, *, pretrained: bool = True) -> nn.Module:
        """Raises ArtifactError when published weights are asked for and cannot be had."""
        options = self.config.model
        if not pretrained:
            options = options.model_copy(update={"pretrained": False})
        build = MODELS[options.name]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(self.config.seed, "model"))
            model: nn.Module = build(options, len(self.labels), self.config.image.shape[0])
        return model

    def published(self, name: str) -> dict[str, Tensor]:
        """torchvision's classifiers have this task's names, so only those of the same depth and classes fit."""
        if name not in IMAGENET_RESNETS:
            known = ", ".join(f"torchvision/{known}" for known in IMAGENET_RESNETS)
            raise ConfigError(f"there is no published classifier '{name}'", expected=known)
        return published_weights(name)

    # ---- batches -------------------------------------------------------------------------------------------------

    def train_loader(self, rank: int = 0, num_ranks: int = 1) -> ResumableLoader:
        if self.splits.is_stream:
            stream, data = self.splits.stream, self.config.data
            decode = StreamSample(len(self.labels), self.image_preprocessing, self.config.augment, self.config.seed)
            return training_stream(stream, decode, self.config, data, rank=rank, num_ranks=num_ranks)
        dataset, train = self.splits.labelled_train, self.config.train
        order = partial(epoch_order, len(dataset), self.config.seed, rank=rank, num_ranks=num_ranks)
        images = dataset.arrays()
        if images is not None:
            tensors = self._tensors(self._training_images(images), dataset.targets())
            return MemoryLoader(tensors, order, train.batch_size, drop_last=True)
        load = TrainSample(dataset, self.image_preprocessing, self.config.augment, self.config.seed)
        return self._worker_loader(load, order, train.batch_size, drop_last=True)

    def eval_loader(self, split: Literal["validation", "test"]) -> ResumableLoader:
        dataset = self.splits.labelled(split)
        order = partial(epoch_order, len(dataset), 0, shuffle=False)
        batch_size = 2 * self.config.train.batch_size  # no gradients: the same memory holds more
        images = dataset.arrays()
        if images is not None:
            tensors = self._tensors(fit_all(images, self.image_preprocessing), dataset.targets())
            return MemoryLoader(tensors, order, batch_size, drop_last=False)
        return self._worker_loader(EvalSample(dataset, self.image_preprocessing), order, batch_size, drop_last=False)

    def _worker_loader(self, load: Any, order: Any, batch_size: int, *, drop_last: bool) -> ResumableLoader:
        train = self.config.train
        pin = pins_memory(train)
        return WorkerLoader(load, order, batch_size, drop_last=drop_last, num_workers=train.num_workers, pin_memory=pin)

    def _training_images(self, images_NHWC: np.ndarray) -> np.ndarray:
        """Images in memory as the random crop on the device needs them; uint8 NHWC. Raises DataError if too small."""
        preprocessing, options = self.image_preprocessing, self.config.augment
        if options.level == "none":
            return fit_all(images_NHWC, preprocessing)
        images = to_channels(images_NHWC, preprocessing.shape[0])
        if options.crop_scale is not None:
            return images
        if preprocessing.resize is not None:
            images = np.stack(
                [resize_shorter(image, preprocessing.resize, preprocessing.interpolation) for image in images]
            )
        height, width = (size + 2 * options.crop_padding for size in images.shape[1:3])
        check_large_enough(height, width, *preprocessing.shape[1:], name=f"({self.splits.train.source})")
        return images

    @staticmethod
    def _tensors(images_NHWC: np.ndarray, targets: np.ndarray) -> dict[str, Tensor]:
        images_NCHW = np.array(images_NHWC.transpose(0, 3, 1, 2), order="C", copy=True)
        return {"image": torch.from_numpy(images_NCHW), "target": torch.from_numpy(np.array(targets))}

    # ---- on the device -------------------------------------------------------------------------------------------

    def on_device(self, batch: Any, *, training: bool, seed: int) -> Any:
        """Augment (when training), normalise, mix. The result depends only on the batch and `seed`."""
        x, target = batch["image"], batch["target"]
        rng = np.random.default_rng(seed)
        x = self._augmented(x, rng) if training else x
        x = self._normalize(x)
        if training:
            x, target = self._mixed(x, target, rng)
        return {"image": x, "target": target}

    @cached_property
    def _normalize(self) -> Normalize:
        return Normalize(*normalization(self.image_preprocessing.mean, self.image_preprocessing.std))

    def _augmented(self, x_BCHW: Tensor, rng: np.random.Generator) -> Tensor:
        """Uint8 pixels to pixels of 0..255, uint8 or float."""
        options = self.config.augment
        if options.level == "none":
            return x_BCHW
        in_memory = not self.splits.is_stream and self.splits.labelled_train.arrays() is not None
        x = self._cropped(x_BCHW, rng) if in_memory else x_BCHW
        if options.flip:
            x = augment.random_flip(x, rng)
        if options.level != "crop":
            offsets = torch.from_numpy(augment.draw_hls_offsets(len(x), rng)).to(x.device)
            x = augment.shift_hls(x.float() / 255, offsets) * 255
        return x

    def _cropped(self, x_BCHW: Tensor, rng: np.random.Generator) -> Tensor:
        """The random crop of images in memory; images on disk were cropped when they were read."""
        options, (_, height, width) = self.config.augment, self.config.image.shape
        if options.crop_scale is not None:
            return augment.random_resized_crop(x_BCHW.float(), height, width, options.crop_scale, rng)
        if options.level == "crop_color_transform":
            return augment.random_affine_crop(x_BCHW.float(), height, width, options.crop_padding, rng)
        return augment.random_crop(x_BCHW, height, width, options.crop_padding, rng)

    def _mixed(self, x_BCHW: Tensor, target: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        options = self.config.augment
        mixers = [
            partial(mixer, alpha=alpha)
            for mixer, alpha in ((augment.mixup, options.mixup_alpha), (augment.cutmix, options.cutmix_alpha))
            if alpha > 0
        ]
        if not mixers:
            return x_BCHW, target
        soft_BK = target.float() if target.ndim == 2 else F.one_hot(target, len(self.labels)).float()
        mixer = mixers[int(rng.integers(len(mixers)))]
        # Targets are soft in every batch, mixed or not, so that a compiled step sees one dtype.
        return mixer(x_BCHW, soft_BK, rng=rng) if rng.random() < options.mix_probability else (x_BCHW, soft_BK)

    # ---- loss and metrics ----------------------------------------------------------------------------------------

    def step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """{"loss", "logits" [B, K]}. Label smoothing is of training only, so that validation losses compare."""
        logits_BK = model(batch["image"]).float()
        target = batch["target"]
        if self.config.loss.multi_label:
            weight = self._positive_weight.to(logits_BK.device) if self.config.loss.weighted else None
            loss = F.binary_cross_entropy_with_logits(logits_BK, target, pos_weight=weight)
        else:
            smoothing = self.config.loss.label_smoothing if model.training else 0.0
            loss = F.cross_entropy(logits_BK, target, label_smoothing=smoothing)
        return {"loss": loss, "logits": logits_BK}

    @cached_property
    def _positive_weight(self) -> Tensor:
        """Negatives / positives of each class in the training data [K]. Raises DataError for a class without any."""
        targets_NK = self.splits.labelled_train.targets()
        positives = targets_NK.sum(axis=0)
        if (positives == 0).any():
            absent = self.labels[int(np.flatnonzero(positives == 0)[0])]
            raise DataError("a weighted loss needs samples of every class", got=f"none of '{absent}'")
        return torch.from_numpy((len(targets_NK) - positives) / positives).float()

    def metrics(self) -> MetricCollection:
        num_classes, top_k = len(self.labels), self.config.metrics.top_k
        if self.config.loss.multi_label:
            return MetricCollection({"accuracy": MultilabelAccuracy(num_classes, validate_args=False)})
        accuracy = partial(MulticlassAccuracy, num_classes, average="micro", validate_args=False)
        chosen: dict[str, Metric | MetricCollection] = {"accuracy": accuracy()}
        if top_k is not None:
            chosen[f"top_{top_k}_accuracy"] = accuracy(top_k=top_k)
        return MetricCollection(chosen, compute_groups=False)

    def train_metrics(self) -> MetricCollection:
        return self.metrics()

    def update_metrics(self, metrics: MetricCollection, outputs: Mapping[str, Tensor], batch: Any) -> None:
        """Mixed targets count as their largest share."""
        logits_BK, target = outputs["logits"].detach(), batch["target"]
        if self.config.loss.multi_label:
            metrics.update(logits_BK.sigmoid(), (target >= 0.5).long())
        else:
            metrics.update(logits_BK, target.argmax(dim=1) if target.ndim == 2 else target)

    # ---- pictures ------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def predictions(self, model: nn.Module, split: Literal["validation", "test"]) -> np.ndarray:
        """Logits [N, K] of a whole split, in its order, on the model's device."""
        device = next(model.parameters()).device
        was_training = model.training
        model.eval()
        logits = []
        for raw in self.eval_loader(split):
            moved = {name: tensor.to(device) for name, tensor in raw.items()}
            logits.append(model(self.on_device(moved, training=False, seed=0)["image"]).float().cpu())
        model.train(was_training)
        return torch.cat(logits).numpy()

    def plots(self, model: nn.Module, folder: Path) -> list[Path]:
        """Confusion matrix, accuracy by class and the most confident mistakes, of the test split if there is one."""
        split = self.splits.final
        logits_NK = self.predictions(model, split)
        return plots.draw_all(self.splits.labelled(split), logits_NK, folder, split)
