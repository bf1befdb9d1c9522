"""What a deployed classifier needs, in numpy: signature, preprocessing, postprocessing, scores. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lab.core.errors import DataError
from lab.core.signature import Signature, TensorSpec
from lab.data.dataset import Sample
from lab.data.draw import contact_sheet
from lab.data.preprocess import EXTENSIONS, ImagePreprocessing, apply, load_image

__all__ = [
    "ACCEPTS",
    "EXTENSIONS",
    "INPUT",
    "MIN_AGREEMENT",
    "OPTIONS",
    "OUTPUT",
    "agreement",
    "aligned",
    "draw",
    "inputs_per_call",
    "load_inputs",
    "postprocess",
    "preprocess",
    "respond",
    "scorer",
    "signature",
    "to_record",
]

INPUT = "image"
OPTIONS = ("top_k",)
"""Options of `postprocess` that a command may set."""
ACCEPTS = ("application/json", "application/jsonlines")
MIN_AGREEMENT = 0.0
"""Logits that are close enough are enough: the most probable of equal classes may be either."""
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


def load_inputs(path: Path) -> list[np.ndarray | DataError]:
    """The one image of a file as uint8 HWC. Raises DataError naming the file."""
    return [load_image(path)]


def inputs_per_call(preprocessing: Mapping[str, Any]) -> int | None:
    """How many images `preprocess` takes at most: any number."""
    return None


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
    images: Sequence[np.ndarray] = (),
    preprocessing: Mapping[str, Any] | None = None,
    *,
    top_k: int = 5,
) -> list[dict[str, Any]]:
    """One JSON-able record per image.

    {"label", "probability", "top": [{"label", "probability"}, ...], "probabilities": one per class}. Where the
    manifest's `preprocessing` says "multi_label", probabilities are of each class on its own, and "labels" are the
    classes with at least 0.5. A class has no place in the image, so that `images` do not matter.

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


def to_record(prediction: dict[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """What `lab predict` prints of one image: all of it."""
    return prediction


def respond(prediction: dict[str, Any], accept: str = ACCEPTS[0]) -> bytes:
    """The endpoint's response: all probabilities as a list (IC-O3), or {"prediction": that list} as a line (IC-O4).

    Raises:
        DataError: a content type that is not offered.
    """
    probabilities = prediction["probabilities"]
    if accept == "application/json":
        return json.dumps(probabilities).encode()
    if accept == "application/jsonlines":
        return json.dumps({"prediction": probabilities}).encode() + b"\n"
    raise DataError("the response cannot be sent in that form", got=accept, expected=", ".join(ACCEPTS))


def draw(image_HWC: np.ndarray, prediction: dict[str, Any], labels: Sequence[str]) -> np.ndarray:
    """The image with its most probable class written below."""
    return contact_sheet([image_HWC], [f"{prediction['label']} {prediction['probability']:.0%}"], columns=1)


def scorer(labels: Sequence[str], preprocessing: Mapping[str, Any], top_k: int | None = None) -> Scorer:
    """Counts right answers: {"accuracy"} and, with `top_k`, {"top_<k>_accuracy"}; as fractions."""
    return Scorer(top_k)


class Scorer:
    """Accuracy over all samples given to `update`.

    Labels are class indices, or multi-hot vectors, whose accuracy is the mean over samples and classes.
    """

    def __init__(self, top_k: int | None = None) -> None:
        self.top_k = top_k
        self.num_right, self.num_right_top_k, self.num_answers = 0, 0, 0

    def update(self, outputs: Mapping[str, np.ndarray], samples: Sequence[Sample]) -> None:
        """Raises DataError when counts differ."""
        logits_NK = outputs[OUTPUT]
        if len(logits_NK) != len(samples):
            raise DataError("outputs and samples differ in number", got=f"{len(logits_NK)} and {len(samples)}")
        targets = np.asarray([sample.label for sample in samples])
        if targets.ndim == 2:
            right = (logits_NK >= 0) == (targets >= 0.5)
        else:
            right = logits_NK.argmax(axis=1) == targets
            if self.top_k is not None:
                order_NK = np.argsort(-logits_NK, axis=1, kind="stable")[:, : self.top_k]
                self.num_right_top_k += int((order_NK == targets[:, None]).any(axis=1).sum())
        self.num_right += int(right.sum())
        self.num_answers += right.size

    def compute(self) -> dict[str, float]:
        """Raises DataError before the first sample."""
        if not self.num_answers:
            raise DataError("there is nothing to score", got="no sample", expected="at least 1")
        scores = {"accuracy": self.num_right / self.num_answers}
        if self.top_k is not None:
            scores[f"top_{self.top_k}_accuracy"] = self.num_right_top_k / self.num_answers
        return scores


def aligned(
    expected: Mapping[str, np.ndarray], actual: Mapping[str, np.ndarray]
) -> tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]:
    """Logits are in a fixed order: as they are."""
    return expected, actual


def agreement(expected: Mapping[str, np.ndarray], actual: Mapping[str, np.ndarray]) -> float:
    """Share of the images for which two models' outputs have the same most probable class."""
    return float((expected[OUTPUT].argmax(axis=1) == actual[OUTPUT].argmax(axis=1)).mean())
