"""What a deployed segmentation model needs, in numpy: signature, preprocessing, masks, responses, scores. No torch.

Shape letters: R rows of the network's batch, K classes, H height and W width of an image.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lab.core.errors import DataError
from lab.core.signature import Dim, Signature, TensorSpec
from lab.data.aialgs import encode_record
from lab.data.dataset import IGNORE, Sample
from lab.data.draw import overlay_mask
from lab.data.preprocess import EXTENSIONS, load_image, normalized
from lab.data.records import frame
from lab.tasks.segmentation.geometry import SegmentationPreprocessing, layouts, merge, windows_of
from lab.tasks.segmentation.scores import confusion_matrix, scores_of

__all__ = [
    "ACCEPTS",
    "EXTENSIONS",
    "INPUT",
    "MIN_AGREEMENT",
    "OPTIONS",
    "OUTPUT",
    "Prediction",
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
OUTPUT = "logits"
OPTIONS: tuple[str, ...] = ()
"""Options of `postprocess` that a command line may set."""
MIN_AGREEMENT = 0.999
PNG, JSON = "image/png", "application/json"
PROTOBUF, RECORDIO = "application/x-protobuf", "application/x-recordio-protobuf"
ACCEPTS: tuple[str, ...] = (PNG, PROTOBUF, RECORDIO, JSON)
"""Media types of `respond`, the default first (SS-O2, SS-O3)."""


def signature(side: int | None, num_classes: int, num_channels: int = 3) -> Signature:
    """Input "image" float32 ["batch", channels, side, side], output "logits" float32 ["batch", classes, side, side].

    Without `side` (evaluation.mode whole) height and width are symbols.
    """
    height: Dim = side if side is not None else "height"
    width: Dim = side if side is not None else "width"
    return Signature(
        inputs=(TensorSpec(INPUT, "float32", ("batch", num_channels, height, width)),),
        outputs=(TensorSpec(OUTPUT, "float32", ("batch", num_classes, height, width)),),
    )


def load_inputs(path: Path) -> list[np.ndarray | DataError]:
    """The one image of a file as uint8 HWC. Raises DataError naming the file."""
    return [load_image(path)]


def inputs_per_call(preprocessing: Mapping[str, Any]) -> int | None:
    """How many images `preprocess` takes at most: one where each keeps its own size (mode whole), else any number."""
    return 1 if SegmentationPreprocessing.from_dict(preprocessing).mode == "whole" else None


def preprocess(images: Sequence[np.ndarray] | np.ndarray, preprocessing: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Uint8 HWC images of any sizes to the model's rows, one or several per image; `preprocessing` is the manifest's.

    Raises:
        DataError: an array that is no image, or several images in mode whole.
        ArtifactError: the preprocessing is not understood.
    """
    understood = SegmentationPreprocessing.from_dict(preprocessing)
    if understood.mode == "whole" and len(images) > 1:
        raise DataError("evaluation.mode whole takes one image at a time", got=len(images), expected=1)
    rows_RHWC = [windows_of(image, understood) for image in images]
    if not rows_RHWC:
        return {INPUT: np.empty((0, *understood.shape), np.float32)}
    return {INPUT: normalized(np.concatenate(rows_RHWC), understood.mean, understood.std)}


@dataclass(frozen=True)
class Prediction:
    """The segmentation of one image at its own size: `scores_KHW` float32 logits, and the names of the K classes."""

    scores_KHW: np.ndarray
    labels: tuple[str, ...]

    @cached_property
    def mask(self) -> np.ndarray:
        """The most probable class of each pixel, uint8."""
        mask_HW: np.ndarray = self.scores_KHW.argmax(axis=0).astype(np.uint8)
        return mask_HW

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Float32; over the classes they sum to 1."""
        exponentials = np.exp(self.scores_KHW - self.scores_KHW.max(axis=0), dtype=np.float64)
        probabilities: np.ndarray = (exponentials / exponentials.sum(axis=0)).astype(np.float32)
        return probabilities


def postprocess(
    outputs: Mapping[str, np.ndarray],
    labels: Sequence[str],
    images: Sequence[np.ndarray],
    preprocessing: Mapping[str, Any],
) -> list[Prediction]:
    """One prediction per image, of its size.

    Raises:
        DataError: labels, or the number of rows, do not fit the outputs.
    """
    rows_RKHW = outputs[OUTPUT]
    if rows_RKHW.ndim != 4 or rows_RKHW.shape[1] != len(labels):
        found, wanted = f"{len(labels)} labels", f"logits {list(rows_RKHW.shape)}"
        raise DataError("labels do not fit the model's output", got=found, expected=wanted)
    sizes = [(image.shape[0], image.shape[1]) for image in images]
    parts = list(layouts(sizes, SegmentationPreprocessing.from_dict(preprocessing)))
    num_rows = parts[-1][1].stop if parts else 0
    if num_rows != len(rows_RKHW):
        found, wanted = f"{len(rows_RKHW)} rows", f"{num_rows} for images of {sizes}"
        raise DataError("the outputs do not fit the images", got=found, expected=wanted)
    return [Prediction(merge(rows_RKHW[rows], layout), tuple(labels)) for layout, rows in parts]


def to_record(prediction: Prediction, labels: Sequence[str]) -> dict[str, Any]:
    """JSON-able: {"size": [height, width], "classes": [{"label", "share", "pixels"}, ...]}, largest share first."""
    counts_K = np.bincount(prediction.mask.ravel(), minlength=len(labels))
    order = [int(index) for index in np.argsort(-counts_K, kind="stable") if counts_K[index]]
    total = int(counts_K.sum())
    classes = [
        {"label": labels[index], "share": float(counts_K[index] / total), "pixels": int(counts_K[index])}
        for index in order
    ]
    return {"size": list(prediction.mask.shape), "classes": classes}


def respond(prediction: Prediction, accept: str = PNG) -> bytes:
    """The response body for an Accept header.

    image/png: 8-bit grey PNG of class indices, of the image's size (SS-O2). The two protobuf types: RecordIO-framed
    `Record` with the features "target", the probabilities, and "shape", [1, classes, height, width] (SS-O3).
    application/json: `to_record`.

    Raises:
        DataError: another media type.
    """
    if accept == PNG:
        buffer = BytesIO()
        Image.fromarray(prediction.mask).save(buffer, format="PNG")
        return buffer.getvalue()
    if accept in (PROTOBUF, RECORDIO):
        probabilities = prediction.probabilities
        return frame(encode_record({"target": probabilities, "shape": np.array((1, *probabilities.shape))}))
    if accept == JSON:
        return json.dumps(to_record(prediction, prediction.labels)).encode()
    raise DataError("no response of that media type", got=accept, expected=", ".join(ACCEPTS))


def draw(image_HWC: np.ndarray, prediction: Prediction, labels: Sequence[str]) -> np.ndarray:
    """The image with its classes in colours over it, uint8 HWC."""
    return overlay_mask(image_HWC, prediction.mask, len(labels))


class MaskScorer:
    """Scores over any number of batches, in the memory of one confusion matrix."""

    def __init__(self, labels: Sequence[str], preprocessing: Mapping[str, Any]) -> None:
        self.labels = tuple(labels)
        self.preprocessing = dict(preprocessing)
        self.matrix_KK = np.zeros((len(labels), len(labels)), np.int64)

    def update(self, outputs: Mapping[str, np.ndarray], samples: Sequence[Sample]) -> None:
        """Count the pixels of a batch. Raises DataError when masks do not fit their images or the classes."""
        images = [sample.image for sample in samples]
        predictions = postprocess(outputs, self.labels, images, self.preprocessing)
        for prediction, sample in zip(predictions, samples, strict=True):
            truth_HW = check_mask(sample, len(self.labels))
            self.matrix_KK += confusion_matrix(prediction.mask, truth_HW, len(self.labels))

    def compute(self) -> dict[str, float]:
        return scores_of(self.matrix_KK)


def scorer(labels: Sequence[str], preprocessing: Mapping[str, Any]) -> MaskScorer:
    """A fresh scorer: miou, pixel_accuracy, mean_class_accuracy."""
    return MaskScorer(labels, preprocessing)


def check_mask(sample: Sample, num_classes: int) -> np.ndarray:
    """The mask of a sample, uint8 [H, W]. Raises DataError naming the file: wrong size, or a class out of range."""
    mask_HW = sample.label
    if not isinstance(mask_HW, np.ndarray) or mask_HW.shape != sample.image.shape[:2]:
        found = f"mask {list(mask_HW.shape)}" if isinstance(mask_HW, np.ndarray) else type(mask_HW).__name__
        raise DataError(f"{sample.name}: the mask does not fit", got=found, expected=list(sample.image.shape[:2]))
    values = np.bincount(mask_HW.ravel(), minlength=256)
    if values[num_classes:IGNORE].any():
        worst = int(np.flatnonzero(values[:IGNORE])[-1])
        expected = f"0..{num_classes - 1}, and {IGNORE} for pixels that do not count"
        raise DataError(f"{sample.name}: a class out of range", got=worst, expected=expected)
    return mask_HW


def agreement(expected: Mapping[str, np.ndarray], actual: Mapping[str, np.ndarray]) -> float:
    """Share of the pixels to which two models give the same class."""
    return float((expected[OUTPUT].argmax(axis=1) == actual[OUTPUT].argmax(axis=1)).mean())


def aligned(
    expected: Mapping[str, np.ndarray], actual: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Both as they are: scores have one order."""
    return dict(expected), dict(actual)
