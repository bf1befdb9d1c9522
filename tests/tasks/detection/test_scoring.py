"""Average precision: equal to torchmetrics' (pycocotools' definition), by hand, and over several updates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torchmetrics.detection import MeanAveragePrecision

from lab.core.errors import DataError
from lab.data.dataset import Boxes, Sample
from lab.tasks.detection.metrics import BoxPrecision
from lab.tasks.detection.responses import Detections
from lab.tasks.detection.scoring import Scorer, thresholds

LABELS = ("a", "b", "c", "never")


def case(seed: int, num_images: int = 12) -> list[tuple[Detections, Boxes]]:
    """Truths of three classes, found roughly; and what is not there."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(num_images):
        count = int(rng.integers(0, 6))
        corner, size = rng.uniform(0, 200, (count, 2)), rng.uniform(8, 150, (count, 2))
        truth = Boxes.of(np.hstack((corner, corner + size)), rng.integers(0, 3, count), rng.random(count) < 0.15)
        noisy = truth.boxes_K4 + rng.normal(0, 6, (count, 4)).astype(np.float32)
        extra = np.sort(rng.uniform(0, 300, (4, 2, 2)), axis=1).reshape(4, 4).astype(np.float32)
        boxes = np.vstack((noisy, extra))
        classes = np.concatenate((truth.classes_K, rng.integers(0, 4, 4)))
        scores = rng.random(len(boxes)).astype(np.float32)
        made.append((Detections(boxes, scores, classes, 320, 320), truth))
    return made


def scorer_of(made: list[tuple[Detections, Boxes]], overlap: float = 0.5) -> Scorer:
    scorer = Scorer(LABELS, {}, overlap)
    for detections, truth in made:
        scorer.add(detections, truth)
    return scorer


def theirs(made: list[tuple[Detections, Boxes]]) -> dict[str, float]:
    # Its default thresholds are rounded to float32; COCO's are not.
    recalls = np.linspace(0, 1, 101).tolist()
    metric = MeanAveragePrecision(iou_thresholds=thresholds(0.5), rec_thresholds=recalls, backend="faster_coco_eval")
    for found, truth in made:
        metric.update(
            [{"boxes": torch.from_numpy(found.boxes_K4), "scores": torch.from_numpy(found.scores_K),
              "labels": torch.from_numpy(found.classes_K)}],
            [{"boxes": torch.from_numpy(truth.boxes_K4), "labels": torch.from_numpy(truth.classes_K),
              "iscrowd": torch.from_numpy(truth.ignore_K).long()}],
        )  # fmt: skip
    return {name: float(value) for name, value in metric.compute().items() if value.numel() == 1}


@pytest.mark.parametrize("seed", range(4))
def test_equals_torchmetrics(seed: int) -> None:
    made = case(seed)
    found, expected = scorer_of(made).compute(), theirs(made)
    for name in ("map", "map_50", "map_75", "map_small", "map_medium", "map_large", "mar_100"):
        assert found[name] == pytest.approx(max(0.0, expected[name]), abs=1e-6), name
    assert found["mAP"] == found["map_50"]


def test_mean_average_precision_at_any_overlap() -> None:
    made = case(1)
    assert scorer_of(made, 0.75).compute()["mAP"] == scorer_of(made).compute()["map_75"]
    lenient, strict = (scorer_of(made, overlap).compute() for overlap in (0.33, 0.97))
    assert thresholds(0.33)[0] == 0.33
    assert lenient["mAP"] >= lenient["map_50"] > strict["mAP"]
    assert lenient["map"] == strict["map"] == scorer_of(made).compute()["map"]  # the thresholds of COCO stay


def test_half_of_the_objects_found() -> None:
    truth = Boxes.of([[0, 0, 50, 50], [100, 100, 150, 150]], [0, 0])
    found = Detections(truth.boxes_K4[:1], np.asarray([0.9], np.float32), np.asarray([0]), 200, 200)
    scores = scorer_of([(found, truth)]).compute()
    assert scores["map_50"] == pytest.approx(51 / 101)  # precision 1 up to a recall of 0.5
    assert scores["mar_100"] == pytest.approx(0.5)


def test_ignored_objects_count_neither_way() -> None:
    truth = Boxes.of([[0, 0, 50, 50], [100, 100, 150, 150]], [0, 0], [False, True])
    found = Detections(truth.boxes_K4, np.asarray([0.5, 0.9], np.float32), np.asarray([0, 0]), 200, 200)
    assert scorer_of([(found, truth)]).compute()["map"] == pytest.approx(1.0)


def test_nothing_found_and_nothing_to_find() -> None:
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), 9, 9)
    truth = Boxes.of([[0, 0, 5, 5]], [0])
    assert set(scorer_of([(nothing, truth)]).compute().values()) == {0.0}
    assert set(scorer_of([(nothing, Boxes.of([], []))]).compute().values()) == {0.0}
    with pytest.raises(DataError, match="nothing to score"):
        Scorer(LABELS, {}).compute()


def test_a_sample_of_another_kind_is_refused() -> None:
    outputs = {"boxes": np.zeros((1, 2, 4), np.float32), "scores": np.zeros((1, 2), np.float32)}
    outputs |= {"labels": np.full((1, 2), -1), "num_detections": np.zeros(1, np.int64)}
    options = {"size": 8, "mean": [0, 0, 0], "std": [1, 1, 1]}
    with pytest.raises(DataError, match=r"x\.png has no boxes"):
        Scorer(LABELS, options).update(outputs, [Sample(np.zeros((8, 8, 3), np.uint8), 3, "x.png")])


def batch_of(made: list[tuple[Detections, Boxes]]) -> tuple[Any, ...]:
    found, boxes = torch.zeros(len(made), 12, 6), torch.zeros(len(made), 7, 4)
    found[..., 5] = -1
    classes, ignore = torch.full((len(made), 7), -1), torch.zeros(len(made), 7, dtype=torch.bool)
    for row, (detections, truth) in enumerate(made):
        count, places = len(detections.scores_K), len(truth)
        found[row, :count, :4] = torch.from_numpy(detections.boxes_K4) / 320
        found[row, :count, 4], found[row, :count, 5] = (
            torch.from_numpy(detections.scores_K), torch.from_numpy(detections.classes_K),
        )  # fmt: skip
        boxes[row, :places] = torch.from_numpy(truth.boxes_K4) / 320
        classes[row, :places], ignore[row, :places] = (
            torch.from_numpy(truth.classes_K), torch.from_numpy(truth.ignore_K),
        )  # fmt: skip
    return found, boxes, classes, ignore, torch.full((len(made), 2), 320)


def test_the_metric_of_training_gives_the_same_numbers_in_any_batches() -> None:
    made = case(2, num_images=9)
    metric = BoxPrecision(LABELS, 8, 0.5)
    metric.update(*batch_of(made[:5]))
    metric.update(*batch_of(made[5:]))
    found = {name: float(value) for name, value in metric.compute().items()}
    expected = scorer_of(made).compute()
    assert found == {name: pytest.approx(value, abs=1e-6) for name, value in expected.items()}
    metric.reset()
    metric.update(*batch_of(made[:1]))
    assert len(metric.scorer().truths) == 1
