"""Detections of one image, and the forms in which they are told: a record for people, two for SageMaker's clients."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lab.core.errors import DataError

ACCEPTS = ("application/json", "application/json;annotation=1")
"""Content types of responses, the first as default (OD-O2, OD-O3)."""


@dataclass(frozen=True)
class Detections:
    """The objects found in one image of `height` x `width` pixels, most certain first.

    `boxes_K4` float32 corners in pixels, `scores_K` float32 in 0..1, `classes_K` int64 indices.
    """

    boxes_K4: np.ndarray
    scores_K: np.ndarray
    classes_K: np.ndarray
    height: int
    width: int


def to_record(prediction: Detections, labels: Sequence[str]) -> dict[str, Any]:
    """What `lab predict` prints of one image: {"detections": [{"label", "score", "box": pixels}, ...], "size"}."""
    rows = zip(prediction.classes_K, prediction.scores_K, prediction.boxes_K4, strict=True)
    detections = [
        {"label": labels[int(index)], "score": float(score), "box": [round(float(value), 2) for value in box]}
        for index, score, box in rows
    ]
    return {"detections": detections, "size": [prediction.height, prediction.width]}


def respond(prediction: Detections, accept: str = ACCEPTS[0]) -> bytes:
    """The endpoint's response: OD-O2, and with "annotation=1" OD-O3.

    Raises:
        DataError: a content type that is not offered.
    """
    kind = ";".join(part.strip() for part in accept.split(";"))
    if kind not in ACCEPTS:
        raise DataError("the response cannot be sent in that form", got=accept, expected=", ".join(ACCEPTS))
    rows = list(zip(prediction.classes_K.tolist(), prediction.scores_K.tolist(), strict=True))
    if kind == ACCEPTS[0]:
        shares_K4 = prediction.boxes_K4 / np.asarray([prediction.width, prediction.height] * 2, np.float32)
        answers = [[float(c), score, *box] for (c, score), box in zip(rows, shares_K4.tolist(), strict=True)]
        return json.dumps({"prediction": answers}).encode()
    annotations = [
        {"class_id": c, "score": score, "left": x1, "top": y1, "width": x2 - x1, "height": y2 - y1}
        for (c, score), (x1, y1, x2, y2) in zip(rows, prediction.boxes_K4.tolist(), strict=True)
    ]
    size = [{"width": prediction.width, "height": prediction.height, "depth": 3}]
    return json.dumps({"image_size": size, "annotations": annotations}).encode()
