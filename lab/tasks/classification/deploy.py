"""What a deployed classifier needs, in numpy: signature, preprocessing, postprocessing, scores. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lab.core.errors import DataError
from lab.core.signature import Signature, TensorSpec
from lab.data.preprocess import EXTENSIONS, ImagePreprocessing, apply, load_image

__all__ = [
    "EXTENSIONS",
    "INPUT",
    "OUTPUT",
    "agreement",
    "load_input",
    "postprocess",
    "preprocess",
    "score",
    "signature",
]

INPUT = "image"
OUTPUT = "logits"
MULTI_LABEL = "multi_label"
"""Key of the manifest's preprocessing, beside those of `ImagePreprocessing`: any number of classes per image."""


def signature(image_shape: Sequence[int], num_classes: int) -> Signature:
    """Input "image" float32 ["batch", C, H, W], output "logits" float32 ["batch", num_classes]."""
    channels, height, width = image_shape
    return Signature(
        inputs=(TensorSpec(INPUT, "float32", ("batch", channels, height, width)),),
        outputs=(TensorSpec(OUTPUT, "float32", ("batch", num_classes)),),
    )


def load_input(path: Path) -> np.ndarray:
    """One image file as uint8 HWC. Raises DataError naming the file."""
    return load_image(path)


def preprocess(images: Sequence[np.ndarray] | np.ndarray, preprocessing: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Uint8 HWC images of any sizes to the model's inputs; `preprocessing` is the manifest's.

    Raises:
        DataError: an array that is no image, or too small for the centre crop.
        ArtifactError: the preprocessing is not understood.
    """
    of_image = {key: value for key, value in preprocessing.items() if key != MULTI_LABEL}
    return {INPUT: apply(images, ImagePreprocessing.from_dict(of_image))}


def softmax(logits_NK: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis, without overflow."""
    shifted = logits_NK - logits_NK.max(axis=-1, keepdims=True)
    exponentials = np.exp(shifted, dtype=np.float64)
    probabilities: np.ndarray = (exponentials / exponentials.sum(axis=-1, keepdims=True)).astype(np.float32)
    return probabilities


def sigmoid(logits_NK: np.ndarray) -> np.ndarray:
    """Probability of each class on its own, without overflow."""
    probabilities: np.ndarray = (0.5 * (1.0 + np.tanh(0.5 * logits_NK.astype(np.float64)))).astype(np.float32)
    return probabilities


def postprocess(
    outputs: Mapping[str, np.ndarray],
    labels: Sequence[str],
    top_k: int = 5,
    preprocessing: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """One JSON-able record per image.

    {"label", "probability", "top": [{"label", "probability"}, ...], "probabilities": one per class}. Where the
    manifest's `preprocessing` says "multi_label", probabilities are of each class on its own, and "labels" are the
    classes with at least 0.5.

    Raises:
        DataError: as many labels as classes are needed.
    """
    logits_NK, multi_label = outputs[OUTPUT], bool((preprocessing or {}).get(MULTI_LABEL, False))
    if logits_NK.ndim != 2 or logits_NK.shape[1] != len(labels):
        raise DataError(
            "labels do not fit the model's output",
            got=f"{len(labels)} labels",
            expected=f"logits {list(logits_NK.shape)}",
        )
    probabilities_NK = sigmoid(logits_NK) if multi_label else softmax(logits_NK)
    return [_record(probabilities_K, labels, top_k, multi_label) for probabilities_K in probabilities_NK]


def _record(probabilities_K: np.ndarray, labels: Sequence[str], top_k: int, multi_label: bool) -> dict[str, Any]:
    order = [int(index) for index in np.argsort(-probabilities_K, kind="stable")[:top_k]]
    top = [{"label": labels[index], "probability": float(probabilities_K[index])} for index in order]
    record: dict[str, Any] = {**top[0], "top": top, "probabilities": [float(value) for value in probabilities_K]}
    if multi_label:
        record["labels"] = [labels[int(index)] for index in np.flatnonzero(probabilities_K >= 0.5)]
    return record


def score(outputs: Mapping[str, np.ndarray], targets: np.ndarray, top_k: int | None = None) -> dict[str, float]:
    """{"accuracy"} and, with `top_k`, {"top_<k>_accuracy"}; as fractions.

    Targets are class indices [N], or multi-hot [N, classes], whose accuracy is the mean over samples and classes.

    Raises:
        DataError: counts differ.
    """
    logits_NK = outputs[OUTPUT]
    if len(logits_NK) != len(targets) or not len(targets):
        raise DataError(
            "outputs and targets differ in number",
            got=f"{len(logits_NK)} and {len(targets)}",
            expected="equal, at least 1",
        )
    if targets.ndim == 2:
        return {"accuracy": float(((logits_NK >= 0) == (targets >= 0.5)).mean())}
    scores = {"accuracy": float((logits_NK.argmax(axis=1) == targets).mean())}
    if top_k is not None:
        order_NK = np.argsort(-logits_NK, axis=1, kind="stable")[:, :top_k]
        scores[f"top_{top_k}_accuracy"] = float((order_NK == targets[:, None]).any(axis=1).mean())
    return scores


def agreement(expected: Mapping[str, np.ndarray], actual: Mapping[str, np.ndarray]) -> float:
    """Share of the images for which two models' outputs have the same most probable class."""
    return float((expected[OUTPUT].argmax(axis=1) == actual[OUTPUT].argmax(axis=1)).mean())
