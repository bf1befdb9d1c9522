"""The learning half of sequence to sequence: model, loaders, loss, metrics, pictures.

Shape letters: B batch, S source tokens, T target tokens, H channels, V vocabulary, N tokens of a batch that count.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MetricCollection

from lab.core.errors import ConfigError
from lab.core.progress import say
from lab.core.seeding import stream, stream_seed
from lab.core.signature import Signature
from lab.data.text.pairs import PairDataset
from lab.data.text.vocabulary import BEGIN, PAD
from lab.nn.learning import ResumableLoader
from lab.nn.programs import calls_of
from lab.tasks.seq2seq import deploy, plots
from lab.tasks.seq2seq.batching import Batcher, PairLoader
from lab.tasks.seq2seq.config import Seq2SeqConfig
from lab.tasks.seq2seq.corpus import Corpus, SplitName
from lab.tasks.seq2seq.metrics import FoundScores, TokenScores
from lab.tasks.seq2seq.models.network import Encode, Seq2Seq, Step, signatures

EvalSplit = Literal["validation", "test"]
SUMS = ("negative_log", "num_correct", "num_tokens")


class Seq2SeqTask:
    """`lab.nn.learning.LearningTask` for one configuration; data is read when first needed. Batches: `PairLoader`."""

    def __init__(self, config: Seq2SeqConfig) -> None:
        self.config = config
        self.corpus = Corpus(config)
        self.monitor: str = config.metrics.monitor
        lower_is_better = self.monitor in ("perplexity", "per", "wer")
        self.monitor_mode: Literal["max", "min"] = "min" if lower_is_better else "max"

    @property
    def labels(self) -> tuple[str, ...]:
        """The target's vocabulary."""
        return self.corpus.sides[1].vocabulary.tokens

    @cached_property
    def preprocessing(self) -> dict[str, Any]:
        """For the manifest; every function of `deploy` reads it."""
        (source, target), data, search = self.corpus.sides, self.config.data, self.config.search
        return deploy.Preprocessing(
            source.tokenizer.to_dict(),
            target.tokenizer.to_dict(),
            source.vocabulary.tokens,
            data.max_source_length,
            data.max_target_length,
            search.beam_size,
            search.length_penalty,
            search.max_length_factor,
        ).to_dict()

    @property
    def signature(self) -> Signature:
        return deploy.signature()

    @cached_property
    def functions(self) -> dict[str, Signature]:
        return signatures(cast(Seq2Seq, self.build_model()).eval())

    def export_modules(self, model: nn.Module) -> dict[str, nn.Module]:
        """ "encode" and "step" around the model's own weights."""
        network = cast(Seq2Seq, model)
        names = tuple(spec.name for spec in self.functions["step"].inputs[1:])
        return {"encode": Encode(network), "step": Step(network, names)}

    def eval_dataset(self, split: SplitName) -> PairDataset:
        """The samples of a split as texts. Raises DataError when there is no such split."""
        return self.corpus.get(split)

    def has_split(self, split: SplitName) -> bool:
        return self.corpus.has(split)

    def dataset_card(self) -> dict[str, Any]:
        return self.corpus.card() | {"padding_share": round(self._batcher.padding_share(), 4)}

    def score_options(self) -> dict[str, Any]:
        """Further arguments of `deploy.scorer`."""
        return {"scores": self.config.metrics.scores}

    def build_model(self, *, pretrained: bool = True) -> nn.Module:
        """Raises ConfigError when the residual layers do not fit."""
        (source, target), data = self.corpus.sides, self.config.data
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(self.config.seed, "model"))
            return Seq2Seq(
                self.config.model,
                len(source.vocabulary),
                len(target.vocabulary),
                data.max_source_length,
                data.max_target_length,
            )

    def published(self, name: str) -> dict[str, Tensor]:
        """Raises ConfigError: there are none."""
        raise ConfigError(
            "there are no published weights for seq2seq", got=name, expected="a run (folder, name, latest)"
        )

    # ---- batches -------------------------------------------------------------------------------------------------

    @cached_property
    def _batcher(self) -> Batcher:
        samples, config = self.corpus.training, self.config
        lengths = [np.asarray([len(row) for row in side]) for side in (samples.sources, samples.targets)]
        return Batcher(lengths[0], lengths[1], config.train.batch_size, config.batching, config.seed)

    def train_loader(self, rank: int = 0, num_ranks: int = 1) -> ResumableLoader:
        loader = PairLoader(
            self.corpus.training, self.config.train.batch_size, self._batcher, rank=rank, num_ranks=num_ranks
        )
        say(f"{len(loader)} batches per epoch, {self._batcher.padding_share():.1%} of their places are padding")
        return loader

    def eval_loader(self, split: EvalSplit) -> ResumableLoader:
        return PairLoader(self.corpus.evaluation(split), self.config.train.batch_size, None)

    def on_device(self, batch: Any, *, training: bool, seed: int) -> Any:
        """As it is."""
        return batch

    # ---- loss and metrics ----------------------------------------------------------------------------------------

    def step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """{"loss"}; in evaluation also sums over tokens, and for the samples that are decoded "tokens" and "index"."""
        target_BT = batch["target"]
        history_BT = F.pad(target_BT[:, :-1], (1, 0), value=BEGIN)
        states_BTH = model(batch["source"], batch["source_lengths"], history_BT)
        # Only what counts goes through the output layer, the largest product of all.
        counts_BT = target_BT != PAD
        network = cast(Seq2Seq, model)
        logits_NV, target_N = network.output(states_BTH[counts_BT]).float(), target_BT[counts_BT]
        if model.training:
            smoothing, normalization = self.config.loss.label_smoothing, self.config.loss.normalization
            loss = F.cross_entropy(logits_NV, target_N, label_smoothing=smoothing, reduction="sum")
            return {"loss": loss / (len(target_N) if normalization == "tokens" else len(target_BT))}
        negative_log = F.cross_entropy(logits_NV, target_N, reduction="sum")
        sums = {
            "negative_log": negative_log,
            "num_correct": (logits_NV.argmax(dim=-1) == target_N).sum(),
            "num_tokens": counts_BT.sum(),
        }
        return {"loss": negative_log / sums["num_tokens"], **sums, **self._found(network, batch)}

    def _found(self, network: Seq2Seq, batch: Any) -> dict[str, Tensor]:
        """Best outputs of those samples of a validation batch that are decoded."""
        index_B = batch["index"]
        chosen_B = self._decoded_index.to(index_B.device)[index_B] if self.config.metrics.sample_size else index_B < 0
        if not chosen_B.any():
            return {}
        inputs = {name: batch[name][chosen_B].cpu().numpy() for name in ("source", "source_lengths")}
        tokens_BT = self.decode(network, inputs, beam_size=self.config.metrics.beam_size)["tokens"][:, 0]
        return {"tokens": torch.from_numpy(tokens_BT).to(index_B.device), "index": index_B[chosen_B]}

    def decode(self, network: nn.Module, inputs: Mapping[str, np.ndarray], **options: Any) -> dict[str, np.ndarray]:
        """`deploy.generate` with the model as it is, where it is."""
        return deploy.generate(
            calls_of(self.export_modules(network), self.functions), inputs, self.preprocessing, **options
        )

    @cached_property
    def _decoded_index(self) -> Tensor:
        """Which validation samples are decoded, bool: the same in every epoch."""
        num_samples, wanted = len(self.corpus.get("validation")), self.config.metrics.sample_size
        order = stream(self.config.data.split_seed, "decoded").permutation(num_samples)
        chosen = torch.zeros(num_samples, dtype=torch.bool)
        chosen[torch.from_numpy(order[: num_samples if wanted < 0 else wanted])] = True
        return chosen

    def metrics(self) -> MetricCollection:
        metrics: dict[str, Any] = {"forced": TokenScores()}
        if self.config.metrics.sample_size:
            make = partial(deploy.scorer, self.labels, self.preprocessing, **self.score_options())
            longest = self.config.data.max_target_length + 1
            metrics["found"] = FoundScores(make, self.corpus.get("validation"), longest)
        return MetricCollection(metrics, compute_groups=False)

    def train_metrics(self) -> MetricCollection:
        """None: the loss tells as much."""
        return MetricCollection({})

    def update_metrics(self, metrics: MetricCollection, outputs: Mapping[str, Tensor], batch: Any) -> None:
        metrics["forced"].update(*(outputs[name] for name in SUMS))
        if "tokens" in outputs and "found" in metrics:
            metrics["found"].update(outputs["tokens"], outputs["index"])

    # ---- pictures ------------------------------------------------------------------------------------------------

    def plots(self, model: nn.Module, folder: Path) -> list[Path]:
        """Attention of some samples, and errors by source length, of the test split if there is one."""
        dataset = self.eval_dataset(self.corpus.final)
        order = stream(self.config.data.split_seed, "pictures").permutation(len(dataset))[: plots.MAX_SAMPLES]
        samples = [dataset[int(index)] for index in order]
        was_training = model.training
        model.eval()
        predictions = []
        for first in range(0, len(samples), 64):
            texts = [sample.input for sample in samples[first : first + 64]]
            outputs = self.decode(model, deploy.preprocess(texts, self.preprocessing))
            predictions += deploy.postprocess(outputs, self.labels, texts, self.preprocessing)
        model.train(was_training)
        return plots.draw_all(samples, predictions, self.corpus.sides[1].tokenizer, folder, self.corpus.final)
