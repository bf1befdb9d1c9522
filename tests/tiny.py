"""A tiny data set that can be learnt in seconds, as IDX files, and a configuration for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lab.data.formats.idx import write_idx

SIZE = 14
CLASSES = ("left", "middle", "right")


def write_tiny_idx(folder: Path, num_train: int = 240, num_test: int = 60, seed: int = 0) -> None:
    """Noise with a bright bar whose place is the class."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", num_train), ("t10k", num_test)):
        labels_N = rng.integers(0, len(CLASSES), count)
        images_NHW = rng.integers(0, 60, (count, SIZE, SIZE))
        for index, label in enumerate(labels_N):
            images_NHW[index, :, 1 + 4 * label : 4 + 4 * label] += 150
        write_idx(folder / f"{split}-images-idx3-ubyte", images_NHW.astype(np.uint8))
        write_idx(folder / f"{split}-labels-idx1-ubyte", labels_N.astype(np.uint8))


def tiny_config(data: Path, **changes: Any) -> dict[str, Any]:
    """A configuration that trains in a few seconds; nested `changes` replace whole sections."""
    config: dict[str, Any] = {
        "task": "classification",
        "name": "tiny",
        "data": {
            "format": "idx",
            "train": str(data / "train-images-idx3-ubyte"),
            "test": str(data / "t10k-images-idx3-ubyte"),
            "class_names": list(CLASSES),
            "validation_fraction": 0.2,
        },
        "image": {"shape": [1, SIZE, SIZE]},
        "model": {"name": "resnet20", "width": 4},
        "augment": {"level": "crop", "crop_padding": 1, "flip": False},
        "optimizer": {"name": "nag", "learning_rate": 0.05},
        "schedule": {"name": "one_cycle"},
        "train": {
            "epochs": 3,
            "batch_size": 16,
            "device": "cpu",
            "num_threads": 1,
        },  # two threads gain nothing on 14 x 14 pixels
        "tracking": {"enabled": False},
    }
    return config | changes


def write_config(path: Path, config: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def class_score(outputs: dict[str, np.ndarray], targets: np.ndarray, **options: Any) -> dict[str, float]:
    """What the classification scorer says of outputs whose right answers are `targets`."""
    from lab.data.dataset import Sample
    from lab.tasks.classification import deploy

    scorer = deploy.scorer((), {}, **options)
    scorer.update(outputs, [Sample(np.zeros((1, 1, 3), np.uint8), target, "x") for target in targets])
    return scorer.compute()
