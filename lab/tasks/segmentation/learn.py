"""The learning half of segmentation: model, loaders, augmentation on the device, loss, metrics, pictures.

Shape letters: B images, C channels, R rows of the network's batch, K classes, H height, W width, S side
of the network's input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lab.core.errors import ConfigError
from lab.core.progress import say
from lab.core.seeding import stream_seed
from lab.core.signature import Signature
from lab.data.dataset import IGNORE, ImageDataset
from lab.data.preprocess import normalization
from lab.data.sampling import epoch_order
from lab.data.splits import SplitName, Splits
from lab.nn.backbones import published_weights
from lab.nn.learning import OneCall, ResumableLoader
from lab.nn.loaders import WorkerLoader, pins_memory
from lab.nn.normalize import Normalize
from lab.nn.stream_loader import training_stream
from lab.tasks.segmentation import augment, deploy, plots
from lab.tasks.segmentation.config import SegmentationConfig
from lab.tasks.segmentation.data import preprocessing_of
from lab.tasks.segmentation.geometry import layouts, merge
from lab.tasks.segmentation.losses import class_weights, cross_entropy, image_weights, pixel_counts, pixel_loss
from lab.tasks.segmentation.metric import PixelConfusion
from lab.tasks.segmentation.network import PUBLISHED, build_network, from_torchvision, without_auxiliary
from lab.tasks.segmentation.samples import EvalSample, StreamSample, TrainSample, TrainView, collate, weighted_order


class SegmentationTask(OneCall):
    """`lab.nn.learning.LearningTask` for one configuration; data is read when first needed.

    A training batch is {"target" [B, S, S], "image" [B, C, S, S]}; an evaluation batch has masks padded with 255
    [B, H, W], "size" [B, 2], and the rows of all images [R, C, S, S]. Images are uint8 from the loaders, normalised
    float32 after `on_device`.
    """

    monitor = "miou"
    monitor_mode: Literal["max", "min"] = "max"

    def __init__(self, config: SegmentationConfig) -> None:
        self.config = config
        self.splits = Splits(config.data, "mask")
        self.geometry = preprocessing_of(config)

    @property
    def labels(self) -> tuple[str, ...]:
        return self.splits.labels

    @property
    def preprocessing(self) -> dict[str, Any]:
        """For the manifest; `deploy.preprocess` reads it."""
        return self.geometry.to_dict()

    @property
    def signature(self) -> Signature:
        whole = self.config.evaluation.mode == "whole"
        side = None if whole else self.config.side
        return deploy.signature(side, len(self.labels), self.config.image.channels)

    def eval_dataset(self, split: SplitName) -> ImageDataset:
        """The samples of a split as they are on disk. Raises DataError when there is no such split."""
        return self.splits.get(split)

    def has_split(self, split: SplitName) -> bool:
        return self.splits.has(split)

    def dataset_card(self) -> dict[str, Any]:
        return self.splits.card()

    def score_options(self) -> dict[str, Any]:
        """Further arguments of `deploy.scorer`: none."""
        return {}

    def build_model(self, *, pretrained: bool = True) -> nn.Module:
        """Raises ArtifactError when published weights are asked for and cannot be had."""
        options = self.config.model
        if not pretrained:
            options = options.model_copy(update={"pretrained": False})
        seed = stream_seed(self.config.seed, "model")
        return build_network(options, len(self.labels), seed, self.config.image.channels)

    def published(self, name: str) -> dict[str, Tensor]:
        """torchvision's FCN and DeepLabV3 on ResNet-50 and 101 under our names (see network.key_map)."""
        own = f"{self.config.model.name}_{self.config.model.backbone}"
        if self.config.image.channels != 3 or self.config.model.width != 64:
            raise ConfigError(
                f"the published model '{name}' does not fit",
                got=f"image.channels {self.config.image.channels}, model.width {self.config.model.width}",
                expected="3 and 64",
            )
        if name not in PUBLISHED or name != own:
            known = ", ".join(f"torchvision/{known}" for known in PUBLISHED)
            what = "does not fit the configured model" if name in PUBLISHED else "is not known"
            hint = "set model.name and model.backbone to those of the weights"
            raise ConfigError(f"the published model '{name}' {what}", got=own, expected=known, hint=hint)
        weights = from_torchvision(name, published_weights(name))
        if self.config.model.auxiliary:
            return weights
        say(f"leaving out the auxiliary head of torchvision/{name}: model.auxiliary is false")
        return without_auxiliary(weights)

    # ---- batches -------------------------------------------------------------------------------------------------

    def train_loader(self, rank: int = 0, num_ranks: int = 1) -> ResumableLoader:
        config, train = self.config, self.config.train
        view = TrainView(len(self.labels), config.image, config.augment, config.seed)
        if self.splits.is_stream:
            stream = self.splits.stream
            load = StreamSample(stream, view)
            return training_stream(stream, load, config, config.data, rank=rank, num_ranks=num_ranks)
        dataset = self.splits.train
        num_views = len(dataset) * config.augment.views_per_image
        order = partial(epoch_order, num_views, config.seed, rank=rank, num_ranks=num_ranks)
        if config.augment.sampling == "rare_classes":
            weights_N = image_weights(self._pixel_counts)
            order = partial(weighted_order, weights_N, num_views, config.seed, rank=rank, num_ranks=num_ranks)
        return WorkerLoader(TrainSample(dataset, view), order, train.batch_size, drop_last=True, **self._workers)

    def eval_loader(self, split: Literal["validation", "test"]) -> ResumableLoader:
        dataset = self.splits.get(split)
        order = partial(epoch_order, len(dataset), 0, shuffle=False)
        # Images of their own size come one at a time (SS-H23).
        batch_size = 1 if self.config.evaluation.mode == "whole" else self.config.train.batch_size
        load = EvalSample(dataset, self.geometry)
        return WorkerLoader(load, order, batch_size, drop_last=False, collate_fn=collate, **self._workers)

    @property
    def _workers(self) -> dict[str, Any]:
        train = self.config.train
        return {"num_workers": train.num_workers, "pin_memory": pins_memory(train)}

    # ---- on the device -------------------------------------------------------------------------------------------

    def on_device(self, batch: Any, *, training: bool, seed: int) -> Any:
        """Change colours (when training), normalise. The result depends only on the batch and `seed`."""
        x_BCHW = batch["image"]
        if training:
            x_BCHW = augment.change_first_colours(x_BCHW, self.config.augment, np.random.default_rng(seed))
        return {**batch, "image": self._normalize(x_BCHW)}

    @cached_property
    def _normalize(self) -> Normalize:
        return Normalize(*normalization(self.geometry.mean, self.geometry.std))

    # ---- loss and metrics ----------------------------------------------------------------------------------------

    def step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """{"loss"}; of evaluation batches also "prediction", class indices uint8 [B, H, W], each image at its own size.

        The validation loss is plain cross entropy, mean over images of their mean over pixels, so that it depends
        neither on the options of the training loss nor on how images fell into batches.
        """
        return self._train_step(model, batch) if "size" not in batch else self._eval_step(model, batch)

    def _train_step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        target_BSS, options = batch["target"].long(), self.config.loss
        outputs = model(batch["image"])
        scores, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
        weights_K = self._class_weights.to(scores.device) if self._class_weights is not None else None
        loss = pixel_loss(scores.float(), target_BSS, options, weights_K)
        for extra in auxiliary:
            loss = loss + options.auxiliary_weight * pixel_loss(extra.float(), target_BSS, options, weights_K)
        return {"loss": loss}

    def _eval_step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        scores, target_BHW = self._scores(model, batch), batch["target"]
        losses = [
            cross_entropy(scores_KHW[None], target_HW[None, : scores_KHW.shape[1], : scores_KHW.shape[2]].long())
            for scores_KHW, target_HW in zip(scores, target_BHW, strict=True)
        ]
        return {"loss": torch.stack(losses).mean(), "prediction": _class_maps(scores, target_BHW)}

    def _scores(self, model: nn.Module, batch: Any) -> list[Tensor]:
        """Scores [K, H, W] of each image of an evaluation batch, merged exactly as `deploy.postprocess` does."""
        rows_RKSS = model(batch["image"]).detach().float()
        parts = layouts(batch["size"].tolist(), self.geometry)
        if rows_RKSS.device.type == "cpu":  # numpy is the faster of the two there
            return [torch.from_numpy(merge(rows_RKSS[rows].numpy(), layout)) for layout, rows in parts]

        def like(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(rows_RKSS.device)

        return [merge(rows_RKSS[rows], layout, like) for layout, rows in parts]

    def predictions(self, model: nn.Module, batch: Any) -> Tensor:
        """Class indices uint8 [B, H, W] of an evaluation batch, each image at its own size, 255 beyond it."""
        return _class_maps(self._scores(model, batch), batch["target"])

    @cached_property
    def _pixel_counts(self) -> np.ndarray:
        return pixel_counts(self.splits.train)

    @cached_property
    def _class_weights(self) -> Tensor | None:
        if self.config.loss.class_weights == "none":
            return None
        weights_K = class_weights(self._pixel_counts.sum(axis=0), self.config.loss)
        return None if weights_K is None else torch.from_numpy(weights_K)

    def metrics(self) -> MetricCollection:
        return MetricCollection({"pixels": PixelConfusion(len(self.labels))})

    def train_metrics(self) -> MetricCollection:
        """None: upsampling and counting every training pixel would cost more than it tells."""
        return MetricCollection({})

    def update_metrics(self, metrics: MetricCollection, outputs: Mapping[str, Tensor], batch: Any) -> None:
        metrics.update(outputs["prediction"], batch["target"])

    # ---- pictures ------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def plots(self, model: nn.Module, folder: Path) -> list[Path]:
        """Confusion matrix, IoU by class, both also as numbers (JSON, CSV), and overlays beside image and truth."""
        split = self.splits.final
        dataset, device = self.eval_dataset(split), next(model.parameters()).device
        gallery = plots.Gallery(len(self.labels))
        was_training = model.training
        model.eval()
        for raw in self.eval_loader(split):
            batch = self.on_device({k: v.to(device) for k, v in raw.items()}, training=False, seed=0)
            predicted_BHW = self.predictions(model, batch).cpu().numpy()
            gallery.add(predicted_BHW, raw["target"].numpy(), raw["size"].numpy())
        model.train(was_training)
        return plots.draw_all(dataset, gallery, folder, split)


def _class_maps(scores: Sequence[Tensor], like_BHW: Tensor) -> Tensor:
    classes_BHW = torch.full_like(like_BHW, IGNORE)
    for classes_HW, scores_KHW in zip(classes_BHW, scores, strict=True):
        # torch's argmax over the first of three dimensions is several times slower on a CPU than numpy's.
        on_cpu = scores_KHW.device.type == "cpu"
        best_HW = torch.from_numpy(scores_KHW.numpy().argmax(axis=0)) if on_cpu else scores_KHW.argmax(dim=0)
        classes_HW[: best_HW.shape[0], : best_HW.shape[1]] = best_HW.to(classes_HW.dtype)
    return classes_BHW
