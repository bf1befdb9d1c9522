"""What a deployed detector needs, in numpy: signature, preprocessing, postprocessing, responses. No torch.

Shape letters: A boxes before suppression, D detections, K classes, N images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lab.core.errors import DataError
from lab.core.signature import Signature, TensorSpec
from lab.data.preprocess import EXTENSIONS, from_manifest, load_image, normalized, resize_image, to_channels
from lab.tasks.detection.numpy_boxes import pairs, suppress
from lab.tasks.detection.responses import ACCEPTS, Detections, respond, to_record

__all__ = [
    "ACCEPTS",
    "EXTENSIONS",
    "INPUT",
    "MIN_AGREEMENT",
    "OPTIONS",
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
OPTIONS = ("threshold", "max_detections")
"""Options of `postprocess` that a command may set."""
MIN_AGREEMENT = 0.99
SAME_IOU = 0.999
"""Two engines' boxes that overlap by more are the same detection."""
DRAW_THRESHOLD = 0.3

Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Preprocessing:
    """From an image to the network's input, and from its outputs to detections; the manifest's "preprocessing".

    Images are resized to a square of `size` pixels. `mean` and `std` are per channel, of pixels as 0..1. The rest is
    what `suppress` takes, used where suppression is not in the graph.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    antialias: bool = True
    nms: Literal["graph", "host"] = "graph"
    nms_threshold: float = 0.45
    score_threshold: float = 0.01
    candidates: int = 400
    max_detections: int = 200

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Preprocessing:
        """Raises ArtifactError on unknown or missing fields."""
        return from_manifest(cls, data, ("size", "mean", "std"))

    def suppression(self) -> dict[str, Any]:
        """The arguments of `suppress`."""
        names = ("nms_threshold", "score_threshold", "candidates", "max_detections")
        return {name: getattr(self, name) for name in names}


def signature(
    size: int, num_classes: int, *, nms: str = "graph", max_detections: int = 200, num_boxes: int = 0
) -> Signature:
    """Input "image" float32 ["batch", 3, size, size]; outputs as `models.ssd.SSD` returns them in evaluation.

    `num_boxes` is the number of default boxes, needed with nms "host".
    """
    image = TensorSpec(INPUT, "float32", ("batch", 3, size, size))
    if nms == "host":
        boxes = TensorSpec("boxes", "float32", ("batch", num_boxes, 4))
        return Signature((image,), (boxes, TensorSpec("scores", "float32", ("batch", num_boxes, num_classes))))
    outputs = (
        TensorSpec("boxes", "float32", ("batch", max_detections, 4)),
        TensorSpec("scores", "float32", ("batch", max_detections)),
        TensorSpec("labels", "int64", ("batch", max_detections)),
        TensorSpec("num_detections", "int64", ("batch",)),
    )
    return Signature((image,), outputs)


def load_inputs(path: Path) -> list[np.ndarray | DataError]:
    """The one image of a file as uint8 HWC. Raises DataError naming the file."""
    return [load_image(path)]


def inputs_per_call(preprocessing: Mapping[str, Any]) -> int | None:
    """How many images `preprocess` takes at most: any number."""
    return None


def preprocess(images: Sequence[np.ndarray] | np.ndarray, preprocessing: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Uint8 HWC images of any sizes to the model's input, one row each; `preprocessing` is the manifest's.

    Raises:
        DataError: an array that is no image.
        ArtifactError: the preprocessing is not understood.
    """
    options = Preprocessing.of(preprocessing)
    squares = [to_square(image, options.size, antialias=options.antialias) for image in images]
    if not squares:
        return {INPUT: np.zeros((0, 3, options.size, options.size), np.float32)}
    return {INPUT: normalized(np.stack(squares), options.mean, options.std)}


def to_square(image_HWC: np.ndarray, size: int, *, antialias: bool) -> np.ndarray:
    """Uint8 image to RGB [size, size, 3]: uint8, or float32 0..255 without antialiasing. Raises DataError."""
    if image_HWC.dtype != np.uint8 or image_HWC.ndim != 3 or 0 in image_HWC.shape:
        raise DataError(
            "not an image", got=f"{image_HWC.dtype}{list(image_HWC.shape)}", expected="uint8[height, width, channels]"
        )
    image = to_channels(image_HWC, 3)
    return resize_image(image, size, size) if antialias else _interpolated(image, size)


def _interpolated(image_HWC: np.ndarray, size: int) -> np.ndarray:
    """Bilinear at pixel centres, without antialiasing: torch's `interpolate(mode="bilinear", align_corners=False)`."""
    rows, columns = (_neighbours(length, size) for length in image_HWC.shape[:2])
    (top, bottom, down), (left, right, across) = rows, columns
    pixels = image_HWC.astype(np.float32)
    across, down = across[None, :, None], down[:, None, None]
    upper = pixels[top][:, left] * (1 - across) + pixels[top][:, right] * across
    lower = pixels[bottom][:, left] * (1 - across) + pixels[bottom][:, right] * across
    blended: np.ndarray = upper * (1 - down) + lower * down
    return blended


def _neighbours(length: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(before, after, weight of after) for each of `size` places along `length` pixels."""
    at = np.maximum((np.arange(size, dtype=np.float32) + 0.5) * np.float32(length / size) - 0.5, 0)
    before = np.minimum(at.astype(np.int64), length - 1)
    return before, np.minimum(before + 1, length - 1), (at - before).astype(np.float32)


def postprocess(
    outputs: Outputs,
    labels: Sequence[str],
    images: Sequence[np.ndarray],
    preprocessing: Mapping[str, Any],
    *,
    threshold: float = 0.0,
    max_detections: int | None = None,
) -> list[Detections]:
    """What was found in each image.

    Args:
        images: the originals, for their sizes in pixels.
        preprocessing: the manifest's; says whether suppression is still to be done.
        threshold: leave out what is less certain. SageMaker's endpoint leaves nothing out (OD-O2).
        max_detections: the most per image; default as trained.

    Raises:
        DataError: outputs, images and labels do not fit each other.
    """
    options = Preprocessing.of(preprocessing)
    if len(outputs["boxes"]) != len(images):
        raise DataError("outputs and images differ in number", got=f"{len(outputs['boxes'])} and {len(images)}")
    found = []
    for row, image in enumerate(images):
        height, width = image.shape[:2]
        boxes_K4, scores_K, classes_K = _one(outputs, row, options)
        if len(classes_K) and classes_K.max() >= len(labels):
            raise DataError(
                "labels do not fit the model's output", got=f"{len(labels)} labels, class {classes_K.max()}"
            )
        chosen = np.flatnonzero(scores_K >= threshold)[:max_detections]
        pixels_K4 = boxes_K4[chosen] * np.asarray([width, height, width, height], np.float32)
        found.append(Detections(pixels_K4, scores_K[chosen], classes_K[chosen], height, width))
    return found


def _one(outputs: Outputs, row: int, options: Preprocessing) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(boxes as shares of the image, scores, classes) of one image."""
    if "num_detections" not in outputs:
        return suppress(outputs["boxes"][row], outputs["scores"][row], **options.suppression())
    count = int(outputs["num_detections"][row])
    return outputs["boxes"][row, :count], outputs["scores"][row, :count], outputs["labels"][row, :count]


def draw(image_HWC: np.ndarray, prediction: Detections, labels: Sequence[str]) -> np.ndarray:
    """The image with the boxes, classes and scores of the detections that are at all likely."""
    likely = prediction.scores_K >= DRAW_THRESHOLD
    boxes_K4, classes_K = prediction.boxes_K4[likely], prediction.classes_K[likely]
    return picture(image_HWC, boxes_K4, classes_K, labels, prediction.scores_K[likely])


def picture(
    image_HWC: np.ndarray,
    boxes_K4: np.ndarray,
    classes_K: np.ndarray,
    labels: Sequence[str],
    scores_K: np.ndarray | None = None,
) -> np.ndarray:
    """The image with boxes in their classes' colours and captions."""
    from lab.data.draw import draw_boxes, palette

    captions = [labels[int(index)] for index in classes_K]
    if scores_K is not None:
        captions = [f"{name} {score:.2f}" for name, score in zip(captions, scores_K, strict=True)]
    drawn: np.ndarray = draw_boxes(image_HWC, boxes_K4, captions, palette(len(labels) + 1)[1:][classes_K])
    return drawn


def scorer(labels: Sequence[str], preprocessing: Mapping[str, Any], *, overlap_threshold: float = 0.5) -> Any:
    """Average precision over everything given to `update` (`lab.tasks.detection.scoring.Scorer`)."""
    from lab.tasks.detection.scoring import Scorer

    return Scorer(labels, preprocessing, overlap_threshold)


def agreement(expected: Outputs, actual: Outputs) -> float:
    """Share of both sides' detections that the other side has too: same class, overlap above 0.999. None: 1."""
    num_paired, num_detections = 0, 0
    for ours, theirs in zip(_unpacked(expected), _unpacked(actual), strict=True):
        found, _ = pairs(ours[0], ours[2], theirs[0], theirs[2], SAME_IOU)
        num_paired += 2 * len(found)
        num_detections += len(ours[0]) + len(theirs[0])
    return num_paired / num_detections if num_detections else 1.0


def aligned(expected: Outputs, actual: Outputs) -> tuple[Outputs, Outputs]:
    """Detections of nearly equal scores may change places: partners in the same row, the others zero on both sides.

    With suppression outside of the graph every box has its row already.
    """
    if "num_detections" not in expected:
        return expected, actual
    sides = ({name: np.zeros_like(array) for name, array in expected.items()} for _ in range(2))
    left, right = sides
    for row, (ours, theirs) in enumerate(zip(_unpacked(expected), _unpacked(actual), strict=True)):
        found, partners = pairs(ours[0], ours[2], theirs[0], theirs[2], 0.5)
        for side, source, order in ((left, ours, found), (right, theirs, partners)):
            for name, values in zip(("boxes", "scores", "labels"), source, strict=True):
                side[name][row, : len(order)] = values[order]
            side["num_detections"][row] = len(order)
    return left, right


def _unpacked(outputs: Outputs) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(boxes, scores, classes) of each image."""
    options = Preprocessing(0, (), ())
    return [_one(outputs, row, options) for row in range(len(outputs["boxes"]))]
