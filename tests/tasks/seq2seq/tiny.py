"""A tiny language that can be learnt in seconds, as TSV, and a configuration for it: each letter becomes a word."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lab.data.text.pairs import TextPair
from lab.data.text.vocabulary import END

WORDS = {"a": "ONE", "b": "TWO", "c": "THREE", "d": "FOUR"}


def spelled(source: str) -> str:
    return " ".join(WORDS[letter] for letter in source)


def write_tiny_tsv(folder: Path, num_samples: int = 120, seed: int = 0) -> Path:
    """Random words of 1 to 5 letters, all different; every fifth has a second right answer, in reverse."""
    rng, rows = np.random.default_rng(seed), {}
    while len(rows) < num_samples:
        source = "".join(rng.choice(list(WORDS), rng.integers(1, 6)))
        reverse = [spelled(source[::-1])] if len(rows) % 5 == 0 else []
        rows.setdefault(source, [spelled(source), *reverse])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "pairs.tsv"
    path.write_text("".join("\t".join([source, *targets]) + "\n" for source, targets in rows.items()))
    return path


def tiny_config(listing: Path, **changes: Any) -> dict[str, Any]:
    """A configuration on it; nested `changes` replace whole sections."""
    config: dict[str, Any] = {
        "task": "seq2seq",
        "name": "tiny",
        "data": {
            "format": "tsv",
            "train": str(listing),
            "validation_size": 0.25,
            "max_source_length": 12,
            "max_target_length": 12,
        },
        "source": {"kind": "char"},
        "model": {
            "encoder": {"embed_size": 24, "hidden_size": 32},
            "decoder": {"embed_size": 24, "hidden_size": 32},
        },
        "batching": {"bucket_width": 2},
        "search": {"beam_size": 2},
        "optimizer": {"name": "adam", "learning_rate": 0.01, "weight_decay": 0},
        "train": {"epochs": 2, "batch_size": 8, "device": "cpu", "num_threads": 1},
        "tracking": {"enabled": False},
    }
    return config | changes


def perfect_outputs(task: Any, samples: Sequence[TextPair]) -> dict[str, np.ndarray]:
    """The outputs of a model that always finds the last of the right answers."""
    side = task.corpus.sides[1]
    rows = [np.append(side.vocabulary.encode(side.tokenizer.split(sample.label[-1])), END) for sample in samples]
    tokens = np.zeros((len(rows), 1, max(map(len, rows))), np.int64)
    for index, row in enumerate(rows):
        tokens[index, 0, : len(row)] = row
    attention = np.zeros((len(rows), tokens.shape[2], 3), np.float32)
    return {"tokens": tokens, "scores": np.zeros((len(rows), 1), np.float32), "attention": attention}
