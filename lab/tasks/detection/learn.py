"""The learning half of detection: model, loaders, colours on the device, loss, metrics, plots.

Shape letters: A default boxes, B batch, C channels, D detections, H height, K classes, M places for objects, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection

from lab.core.seeding import stream_seed
from lab.core.signature import Signature
from lab.data.dataset import ImageDataset
from lab.data.preprocess import normalization, to_manifest
from lab.data.sampling import epoch_order
from lab.data.splits import SplitName, Splits
from lab.nn.learning import OneCall, ResumableLoader
from lab.nn.loaders import WorkerLoader, pins_memory
from lab.nn.normalize import Normalize
from lab.nn.stream_loader import training_stream
from lab.tasks.detection import deploy, plots, published
from lab.tasks.detection.augment import distort_colours
from lab.tasks.detection.boxes import decode
from lab.tasks.detection.config import DetectionConfig
from lab.tasks.detection.loss import multibox_loss, targets_of
from lab.tasks.detection.metrics import BoxPrecision
from lab.tasks.detection.models.ssd import SSD, build, suppress
from lab.tasks.detection.samples import EvalSample, StreamSample, TrainSample, TrainView, cached

LOSSES = ("cross_entropy", "smooth_l1")
OBJECTS = ("boxes", "classes", "ignore")


class DetectionTask(OneCall):
    """`lab.nn.learning.LearningTask` for one configuration; data is read when first needed.

    A batch is {"image", "boxes" [B, M, 4] as shares of the image, "classes" [B, M] with -1 for no object, "ignore"
    [B, M]}, in evaluation also "size" [B, 2], height and width of the original images: images from the loaders are
    0..255 [B, 3, H, W], after `on_device` normalised float32.
    """

    monitor_mode: Literal["max", "min"] = "max"

    def __init__(self, config: DetectionConfig) -> None:
        self.config = config
        self.monitor: str = config.metrics.monitor
        self.splits = Splits(config.data, "boxes")

    @property
    def labels(self) -> tuple[str, ...]:
        return self.splits.labels

    @property
    def preprocessing(self) -> dict[str, Any]:
        """For the manifest; `deploy.preprocess` and `deploy.postprocess` read it."""
        image, detect = self.config.image, self.config.detect
        return to_manifest(
            deploy.Preprocessing(image.size, image.mean, image.std, image.antialias, **detect.model_dump())
        )

    @cached_property
    def signature(self) -> Signature:
        detect, num_classes = self.config.detect, len(self.labels)
        with torch.device("meta"):
            num_boxes = len(cast(SSD, self._build(pretrained=False)).defaults_A4)
        num_detections = min(detect.max_detections, num_classes * min(detect.candidates, num_boxes))
        return deploy.signature(
            self.config.image.size, num_classes, nms=detect.nms, max_detections=num_detections, num_boxes=num_boxes
        )

    def eval_dataset(self, split: SplitName) -> ImageDataset:
        """The samples of a split as they are on disk. Raises DataError when there is no such split."""
        return self.splits.get(split)

    def dataset_card(self) -> dict[str, Any]:
        return self.splits.card()

    def score_options(self) -> dict[str, Any]:
        """Further arguments of `deploy.scorer`."""
        return {"overlap_threshold": self.config.metrics.overlap_threshold}

    def has_split(self, split: SplitName) -> bool:
        return self.splits.has(split)

    def published(self, name: str) -> dict[str, Tensor]:
        return published.published(name)

    def build_model(self, *, pretrained: bool = True) -> nn.Module:
        """Raises ArtifactError when published weights are asked for and cannot be had."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(self.config.seed, "model"))
            return self._build(pretrained=pretrained)

    def _build(self, *, pretrained: bool) -> nn.Module:
        options = self.config.model.model_copy(update={} if pretrained else {"pretrained": False})
        return build(self.config.model_copy(update={"model": options}), len(self.labels))

    # ---- batches -------------------------------------------------------------------------------------------------

    @cached_property
    def _train_view(self) -> TrainView:
        image = self.config.image
        red, green, blue = (round(255 * value) for value in image.mean)
        return TrainView(image.size, (red, green, blue), self.config.augment, self.config.data.max_objects)

    @cached_property
    def _train_images(self) -> ImageDataset:
        return cached(self.splits.train, self.config.data.cache_images)

    def train_loader(self, rank: int = 0, num_ranks: int = 1) -> ResumableLoader:
        seed = self.config.seed
        if self.splits.is_stream:
            stream, data = self.splits.stream, self.config.data
            load = StreamSample(stream, self._train_view, seed)
            return training_stream(stream, load, self.config, data, rank=rank, num_ranks=num_ranks)
        dataset = self._train_images
        order = partial(epoch_order, len(dataset), seed, rank=rank, num_ranks=num_ranks)
        return self._loader(TrainSample(dataset, self._train_view, seed), order, drop_last=True)

    def eval_loader(self, split: Literal["validation", "test"]) -> ResumableLoader:
        dataset, image = self.splits.get(split), self.config.image
        load = EvalSample(dataset, image.size, image.antialias, self.config.data.max_objects)
        return self._loader(load, partial(epoch_order, len(dataset), 0, shuffle=False), drop_last=False)

    def _loader(self, load: Any, order: Any, *, drop_last: bool) -> ResumableLoader:
        train = self.config.train
        return WorkerLoader(
            load,
            order,
            train.batch_size,
            drop_last=drop_last,
            num_workers=train.num_workers,
            pin_memory=pins_memory(train),
        )

    # ---- on the device -------------------------------------------------------------------------------------------

    def on_device(self, batch: Any, *, training: bool, seed: int) -> Any:
        """Change colours (when training) and normalise. The result depends only on the batch and `seed`."""
        x, options = batch["image"].float(), self.config.augment
        if training and options.photometric:
            x = distort_colours(x.div_(255), np.random.default_rng(seed), permute_channels=options.permute_channels)
            x = x.mul_(255)
        x = self._normalize(x)
        # Padding that no image of the batch needs would be matched against every default box.
        num_places = max(1, int((batch["classes"] >= 0).sum(dim=1).max()))
        return {"image": x, **{name: batch[name][:, :num_places] for name in OBJECTS}} | (
            {"size": batch["size"]} if "size" in batch else {}
        )

    @cached_property
    def _normalize(self) -> Normalize:
        return Normalize(*normalization(self.config.image.mean, self.config.image.std))

    # ---- loss and metrics ----------------------------------------------------------------------------------------

    def step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """{"loss", "cross_entropy", "smooth_l1"}, in evaluation also "found" [B, D, 6]: corners, score, class."""
        detector = cast(SSD, model)
        # Called as a module when training, so that hooks and torch.compile see the call.
        codes_BA4, logits_BAK = detector(batch["image"]) if model.training else detector.raw(batch["image"])
        codes_BA4, logits_BAK, options = codes_BA4.float(), logits_BAK.float(), self.config.loss
        with torch.no_grad():
            boxes_BM4, classes_BM, ignore_BM = (batch[name] for name in OBJECTS)
            match_iou = self.config.boxes.match_iou
            targets = targets_of(boxes_BM4, classes_BM, ignore_BM, detector.defaults_A4, match_iou)
        losses = multibox_loss(codes_BA4, logits_BAK, targets, options.negatives_per_positive)
        losses["loss"] = losses["cross_entropy"] + options.box_weight * losses["smooth_l1"]
        if not model.training:
            boxes_BA4 = decode(codes_BA4, detector.defaults_A4).clamp(0, 1)
            scores_BAK = logits_BAK.softmax(dim=-1)[..., 1:]
            boxes, scores, labels, _ = suppress(boxes_BA4, scores_BAK, self.config.detect)
            losses["found"] = torch.cat((boxes, scores.unsqueeze(-1), labels.unsqueeze(-1)), dim=-1)
        return losses

    def metrics(self) -> MetricCollection:
        precision = BoxPrecision(self.labels, self.config.data.max_objects, self.config.metrics.overlap_threshold)
        return MetricCollection({"precision": precision, **self._mean_losses()}, compute_groups=False)

    def train_metrics(self) -> MetricCollection:
        """The two parts of the loss (OD-O6); boxes of training batches would cost a suppression per step."""
        return MetricCollection(self._mean_losses(), compute_groups=False)

    @staticmethod
    def _mean_losses() -> dict[str, Any]:
        return {name: MeanMetric(nan_strategy="ignore") for name in LOSSES}

    def update_metrics(self, metrics: MetricCollection, outputs: Mapping[str, Tensor], batch: Any) -> None:
        for name in LOSSES:
            metrics[name].update(outputs[name], weight=len(batch["image"]))
        if "precision" in metrics:
            metrics["precision"].update(outputs["found"], *(batch[name] for name in OBJECTS), batch["size"])

    # ---- pictures ------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _scored(self, model: nn.Module, split: Literal["validation", "test"]) -> BoxPrecision:
        """What the model finds in a whole split, in its order."""
        device = next(model.parameters()).device
        was_training = model.training
        model.eval()
        metrics = self.metrics().to(device)
        for raw in self.eval_loader(split):
            moved = {name: tensor.to(device) for name, tensor in raw.items()}
            batch = self.on_device(moved, training=False, seed=0)
            self.update_metrics(metrics, self.step(model, batch), batch)
        model.train(was_training)
        return cast(BoxPrecision, metrics["precision"])

    def plots(self, model: nn.Module, folder: Path) -> list[Path]:
        """Precision by class, precision over recall, and found beside true boxes, of the test split if there is one."""
        split = self.splits.final
        return plots.draw_all(self.splits.get(split), self._scored(model, split).scorer(), folder, split)
