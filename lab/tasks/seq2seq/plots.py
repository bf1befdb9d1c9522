"""Pictures of a trained model: where it looked, and how errors grow with the length of the source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lab.data.text.pairs import TextPair
from lab.data.text.tokenizers import Tokenizer
from lab.nn.plots import new_figure, save_figure
from lab.tasks.seq2seq.responses import Translation
from lab.tasks.seq2seq.scoring import nearest_errors

MAX_SAMPLES = 1000
"""Samples that the curve of errors is of."""
NUM_SHOWN = 6
MAX_SHOWN_TOKENS = 30
MIN_PER_LENGTH = 5


def draw_all(
    samples: Sequence[TextPair], predictions: Sequence[Translation], target: Tokenizer, folder: Path, split: str
) -> list[Path]:
    """`attention.png` and `errors_by_length.png`."""
    return [
        draw_attention(predictions, folder, split),
        draw_errors(samples, predictions, target, folder, split),
    ]


def draw_attention(predictions: Sequence[Translation], folder: Path, split: str) -> Path:
    """`attention.png`: rows target tokens, columns source tokens, of the first samples that are short enough."""
    fits = [
        p for p in predictions if max(len(p.source_tokens), len(p.best.tokens)) <= MAX_SHOWN_TOKENS and p.best.tokens
    ]
    shown = (fits or list(predictions))[:NUM_SHOWN]
    num_columns = min(3, max(len(shown), 1))
    num_rows = max(-(-len(shown) // num_columns), 1)
    figure = new_figure(4.5 * num_columns, 4.0 * num_rows)
    figure.suptitle(f"Attention, {split} split")
    axes = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    for axis, prediction in zip(axes, shown, strict=False):
        axis.imshow(prediction.attention_TS, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axis.set_xticks(range(len(prediction.source_tokens)), prediction.source_tokens, rotation=90, fontsize=7)
        axis.set_yticks(range(len(prediction.best.tokens)), prediction.best.tokens, fontsize=7)
        axis.set_xlabel("source")
        axis.set_ylabel("output")
    return save_figure(figure, folder / "attention.png")


def draw_errors(
    samples: Sequence[TextPair], predictions: Sequence[Translation], target: Tokenizer, folder: Path, split: str
) -> Path:
    """`errors_by_length.png`: errors per reference token and share of wrong outputs over the source's length."""
    lengths = np.asarray([len(prediction.source_tokens) for prediction in predictions])
    errors = np.asarray(
        [
            nearest_errors(prediction.best.tokens, [target.split(label) for label in sample.label])
            for sample, prediction in zip(samples, predictions, strict=True)
        ]
    )
    width = max(1, int(np.ceil(lengths.max() / 20)))
    buckets = lengths // width
    often = [bucket for bucket in np.unique(buckets) if (buckets == bucket).sum() >= min(MIN_PER_LENGTH, len(lengths))]
    often = often or np.unique(buckets).tolist()
    rates = [errors[buckets == bucket].sum(axis=0) for bucket in often]
    wrong = [(errors[buckets == bucket, 0] > 0).mean() for bucket in often]
    figure = new_figure(7, 4)
    axis = figure.subplots()
    middle = [(bucket + 0.5) * width - 0.5 for bucket in often]
    axis.plot(middle, [num_errors / num_tokens for num_errors, num_tokens in rates], "o-", label="errors per token")
    axis.plot(middle, wrong, "s--", label="share of wrong outputs")
    axis.set_title(f"Errors by source length, {split} split ({len(lengths):,} samples)")
    axis.set_xlabel("source tokens")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    return save_figure(figure, folder / "errors_by_length.png")
