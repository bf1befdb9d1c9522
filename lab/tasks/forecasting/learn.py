"""The learning half of forecasting: model, loaders, teacher-forced loss, sampled metrics, plots.

Shape letters: B windows, C context, L lags, P steps to forecast, R numbers, T unrolled steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lab.core.errors import ConfigError
from lab.core.seeding import stream_seed
from lab.core.signature import Signature
from lab.data.preprocess import to_manifest
from lab.nn.learning import ResumableLoader
from lab.nn.programs import calls_of
from lab.tasks.forecasting import deploy, plots
from lab.tasks.forecasting.config import ForecastingConfig
from lab.tasks.forecasting.data import EvalWindows, SeriesSplits, SplitName, training_part
from lab.tasks.forecasting.likelihoods import likelihood_of
from lab.tasks.forecasting.loaders import EvalLoader, WindowLoader, window_weights
from lab.tasks.forecasting.metrics import Accuracy
from lab.tasks.forecasting.models import MODELS
from lab.tasks.forecasting.models.deepar import DeepAR, Encode, Step
from lab.tasks.forecasting.windows import Preprocessing, SeriesArrays, scale_of

MIN_WINDOWS_PER_EPOCH = 1600
MIN_EVAL_BATCH = 256


class ForecastingTask:
    """`lab.nn.learning.LearningTask` for one configuration; data is read when first needed.

    A batch is what `Preprocessing.signature` names, "future_target" and "future_observed" [B, P], and in evaluation
    "seasonal_error" [B].
    """

    monitor_mode: Literal["max", "min"] = "min"

    def __init__(self, config: ForecastingConfig) -> None:
        self.config = config
        self.monitor: str = config.metrics.monitor
        self.splits = SeriesSplits(config)

    @property
    def options(self) -> Preprocessing:
        return self.splits.preprocessing

    @property
    def labels(self) -> tuple[str, ...]:
        """A forecast has no classes."""
        return ()

    @property
    def preprocessing(self) -> dict[str, Any]:
        return to_manifest(self.options)

    @property
    def signature(self) -> Signature:
        return self.options.signature()

    @cached_property
    def functions(self) -> dict[str, Signature]:
        with torch.device("meta"):
            static = cast(DeepAR, self._build()).static_size
        model = self.config.model
        return deploy.functions(
            self.preprocessing, num_layers=model.num_layers, num_cells=model.num_cells, static=static
        )

    def export_modules(self, model: nn.Module) -> dict[str, nn.Module]:
        network = cast(DeepAR, model)
        has_cat, has_real = bool(self.options.all_cardinalities), bool(self.options.num_static)
        return {"encode": Encode(network, has_cat=has_cat, has_real=has_real), "step": Step(network)}

    def eval_dataset(self, split: SplitName) -> EvalWindows:
        """The windows of a split. Raises DataError when there is none."""
        if split == "train":
            raise ConfigError("training windows are drawn, not listed", got=split, expected="validation or test")
        return self.splits.windows(split)

    def has_split(self, split: SplitName) -> bool:
        return self.splits.has(split)

    def dataset_card(self) -> dict[str, Any]:
        return self.splits.card()

    def score_options(self) -> dict[str, Any]:
        """Further arguments of `deploy.scorer`."""
        return {"ets_windows": self.config.metrics.ets_windows}

    def published(self, name: str) -> dict[str, Tensor]:
        raise ConfigError(f"there are no published weights '{name}' of this task", hint="init_from takes a run")

    def build_model(self, *, pretrained: bool = True) -> nn.Module:
        """A fresh network; its initial weights depend on the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(self.config.seed, "model"))
            return self._build()

    def _build(self) -> nn.Module:
        build: Callable[..., nn.Module] = MODELS[self.config.model.name]
        return build(self.config.model, self.options)

    # ---- batches -------------------------------------------------------------------------------------------------

    @cached_property
    def _train_arrays(self) -> SeriesArrays:
        return SeriesArrays.of(training_part(self.splits), self.options)

    def train_loader(self, rank: int = 0, num_ranks: int = 1) -> ResumableLoader:
        data, horizon = self.config.data, self.options.prediction_length
        parts = training_part(self.splits)
        lengths_N = np.asarray([len(one) for one in parts], np.int64)
        scale_N = np.asarray([np.nanmean(np.abs(one.target_T)) if _is_known(one.target_T) else 0.0 for one in parts])
        weights_N = window_weights(lengths_N, scale_N, horizon, data.sampling)
        positions = int(np.maximum(lengths_N - horizon, 0).sum())
        return WindowLoader(
            self._train_arrays,
            lengths_N,
            weights_N,
            seed=self.config.seed,
            windows_per_epoch=data.windows_per_epoch or max(MIN_WINDOWS_PER_EPOCH, positions // horizon),
            batch_size=self.config.train.batch_size,
            rank=rank,
            num_ranks=num_ranks,
        )

    def eval_loader(self, split: Literal["validation", "test"]) -> ResumableLoader:
        windows = self.splits.windows(split)
        batch_size = max(MIN_EVAL_BATCH, self.config.train.batch_size)
        arrays = SeriesArrays.of(windows.series, self.options)
        return EvalLoader(arrays, windows.series_B, windows.origin_B, windows.seasonal_errors, batch_size)

    def on_device(self, batch: Any, *, training: bool, seed: int) -> Any:
        """Nothing is left to do."""
        return batch

    # ---- loss and metrics ----------------------------------------------------------------------------------------

    def step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """{"loss": mean negative log-likelihood per observed value in units of the scale}, in evaluation also
        "samples" [B, S, P]."""
        outputs = {"loss": self.teacher_forced(model, batch)}
        if not model.training:
            outputs["samples"] = self.sample(model, batch)
        return outputs

    def teacher_forced(self, model: nn.Module, batch: Any) -> Tensor:
        """Mean negative log-likelihood of context and future, given what came before each value."""
        options = self.options
        scale_B1 = scale_of(batch["past_target"], batch["past_observed"], options, torch)
        scaled_BT = torch.cat((batch["past_target"], batch["future_target"]), dim=1) / scale_B1
        num_steps = options.context_length + options.prediction_length - 1
        lagged_BTL = scaled_BT.index_select(1, self._lag_positions(scaled_BT.device)).unflatten(1, (num_steps, -1))
        inputs_BTI = torch.cat((lagged_BTL, batch["features"]), dim=-1)
        parameters_BTQ = model(inputs_BTI, batch.get("static_cat"), self._static_real(batch, scale_B1))
        observed_BT = torch.cat((batch["past_observed"], batch["future_observed"]), dim=1)[:, -num_steps:]
        nll = likelihood_of(options.likelihood).nll
        losses_BT = nll(parameters_BTQ.float(), scaled_BT[:, -num_steps:], scale_B1)
        # Padding holds zeros, which some distributions give no finite density.
        losses_BT = torch.where(observed_BT > 0, losses_BT, 0.0)
        return losses_BT.sum() / observed_BT.sum().clamp(min=1)

    def _lag_positions(self, device: torch.device) -> Tensor:
        if self._positions.device != device:
            self._positions = self._positions.to(device)
        return self._positions

    @cached_property
    def _positions(self) -> Tensor:
        steps = np.arange(self.options.context_length + self.options.prediction_length - 1)
        return torch.from_numpy(self.options.lag_positions(steps).ravel())

    def _static_real(self, batch: Any, scale_B1: Tensor) -> Tensor | None:
        parts = [batch["static_real"]] if self.options.num_static_real else []
        parts += [scale_B1.log()] if self.options.scale_feature else []
        return torch.cat(parts, dim=-1) if parts else None

    @torch.no_grad()
    def sample(self, model: nn.Module, batch: Any) -> Tensor:
        """Sample paths [B, S, P] by the loop of deployment."""
        inputs = {spec.name: batch[spec.name].cpu().numpy() for spec in self.signature.inputs}
        device = batch["past_target"].device
        calls = calls_of(self.export_modules(model), self.functions)
        return torch.from_numpy(deploy.generate(calls, inputs, self.preprocessing)["samples"]).to(device)

    def metrics(self) -> MetricCollection:
        return MetricCollection({"accuracy": Accuracy(self.options.quantiles)}, compute_groups=False)

    def train_metrics(self) -> MetricCollection:
        """None: the loss says all that a teacher-forced batch can tell."""
        return MetricCollection({})

    def update_metrics(self, metrics: MetricCollection, outputs: Mapping[str, Tensor], batch: Any) -> None:
        if "accuracy" in metrics:
            metrics["accuracy"].update(
                outputs["samples"], batch["future_target"], batch["future_observed"], batch["seasonal_error"]
            )

    # ---- pictures ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def plots(self, model: nn.Module, folder: Path) -> list[Path]:
        """Fan charts, error by horizon and coverage on the test split if there is one."""
        split = self.splits.final
        device = next(model.parameters()).device
        was_training = model.training
        model.eval()
        batches = ({name: value.to(device) for name, value in raw.items()} for raw in self.eval_loader(split))
        samples = [self.sample(model, batch).cpu().numpy() for batch in batches]
        model.train(was_training)
        return plots.draw_all(self.splits.windows(split), np.concatenate(samples), self.options, folder, split)


def _is_known(target_T: np.ndarray) -> bool:
    return bool((~np.isnan(target_T)).any())
