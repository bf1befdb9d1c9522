"""Average precision as COCO defines it, computed by faster-coco-eval. Numpy only.

Shape letters: A area ranges, D limits of detections per image, K classes, R recall levels, T overlap thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lab.core.errors import DataError, MissingToolError
from lab.data.dataset import Boxes, Sample
from lab.tasks.detection.deploy import postprocess
from lab.tasks.detection.responses import Detections

COCO_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
MAX_DETECTIONS = (1, 10, 100)
AREAS = ("all", "small", "medium", "large")
"""Objects below 32 x 32 pixels, below 96 x 96, and larger ones; in the original image."""


def thresholds(overlap_threshold: float) -> list[float]:
    """COCO's ten overlap thresholds, and the given one where it is none of them."""
    return sorted({*COCO_THRESHOLDS, overlap_threshold})


@dataclass(frozen=True)
class Curves:
    """`precision_TRKAD` at 101 levels of recall and `recall_TKAD`, -1 where there is no object to find."""

    precision_TRKAD: np.ndarray
    recall_TKAD: np.ndarray
    overlap_threshold: float

    def class_ap(self) -> np.ndarray:
        """Average precision [T, K] per overlap threshold and class; NaN for a class without objects."""
        of_all_TRK = self.precision_TRKAD[..., 0, -1]
        return np.where(of_all_TRK.min(axis=1) < 0, np.nan, of_all_TRK.mean(axis=1))

    def at(self, threshold: float) -> int:
        """Index of an overlap threshold."""
        return thresholds(self.overlap_threshold).index(threshold)

    def scores(self) -> dict[str, float]:
        """Every scalar; 0 where there is no object of that size at all."""
        levels = thresholds(self.overlap_threshold)
        coco = [index for index, level in enumerate(levels) if level in COCO_THRESHOLDS]
        precision_TRKAD = self.precision_TRKAD

        def mean_ap(rows: Any, area: int = 0) -> float:
            return _mean(precision_TRKAD[rows, ..., area, -1])

        return {
            "map": mean_ap(coco),
            "map_50": mean_ap(self.at(0.5)),
            "map_75": mean_ap(self.at(0.75)),
            **{f"map_{name}": mean_ap(coco, number) for number, name in enumerate(AREAS) if number},
            "mar_100": _mean(self.recall_TKAD[coco, ..., 0, -1]),
            "mAP": mean_ap(self.at(self.overlap_threshold)),
        }


def _mean(values: np.ndarray) -> float:
    there = values[values > -1]
    return float(there.mean()) if there.size else 0.0


class Scorer:
    """Collects detections and truths of any number of images; memory grows with the number of detections."""

    def __init__(self, labels: Sequence[str], preprocessing: Mapping[str, Any], overlap_threshold: float = 0.5) -> None:
        self.labels, self.preprocessing, self.overlap_threshold = labels, preprocessing, overlap_threshold
        self.detections: list[Detections] = []
        self.truths: list[Boxes] = []

    def update(self, outputs: Mapping[str, np.ndarray], samples: Sequence[Sample]) -> None:
        """Raises DataError when counts differ or the samples have no boxes."""
        images = [sample.image for sample in samples]
        detections = postprocess(outputs, self.labels, images, self.preprocessing)
        for sample, found in zip(samples, detections, strict=True):
            if not isinstance(sample.label, Boxes):
                raise DataError(f"{sample.name} has no boxes", got=type(sample.label).__name__)
            self.add(found, sample.label)

    def add(self, found: Detections, truth: Boxes) -> None:
        """One image."""
        self.detections.append(found)
        self.truths.append(truth)

    def curves(self) -> Curves:
        """Raises DataError before the first image, MissingToolError without faster-coco-eval."""
        if not self.truths:
            raise DataError("there is nothing to score", got="no sample", expected="at least 1")
        evaluation = _evaluate(
            _truth_json(self.truths, len(self.labels)), _detection_rows(self.detections), self.overlap_threshold
        )
        return Curves(evaluation["precision"], evaluation["recall"], self.overlap_threshold)

    def compute(self) -> dict[str, float]:
        """{"map", "map_50", "map_75", "map_small", "map_medium", "map_large", "mar_100", "mAP"}."""
        return self.curves().scores()


def _truth_json(truths: Sequence[Boxes], num_classes: int) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image, truth in enumerate(truths):
        for (x1, y1, x2, y2), index, ignore in zip(
            truth.boxes_K4.tolist(), truth.classes_K.tolist(), truth.ignore_K.tolist(), strict=True
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": index,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(ignore),
                }
            )
    return {
        "images": [{"id": image} for image in range(len(truths))],
        "annotations": annotations,
        "categories": [{"id": index, "name": str(index)} for index in range(num_classes)],
    }


def _detection_rows(detections: Sequence[Detections]) -> list[dict[str, Any]]:
    return [
        {"image_id": image, "category_id": index, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
        for image, found in enumerate(detections)
        for (x1, y1, x2, y2), index, score in zip(
            found.boxes_K4.tolist(), found.classes_K.tolist(), found.scores_K.tolist(), strict=True
        )
    ]


def _evaluate(truth: dict[str, Any], rows: list[dict[str, Any]], overlap_threshold: float) -> dict[str, Any]:
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise MissingToolError("average precision needs faster-coco-eval", hint="pip install 'lab[train]'") from error
    coco = COCO(truth)
    found = coco.loadRes(rows) if rows else COCO({**truth, "annotations": []})
    evaluation = COCOeval_faster(coco, found, "bbox", print_function=lambda *_: None)
    evaluation.params.iouThrs = np.asarray(thresholds(overlap_threshold))
    evaluation.params.maxDets = list(MAX_DETECTIONS)
    evaluation.evaluate()
    evaluation.accumulate()
    result: dict[str, Any] = evaluation.eval
    return result
