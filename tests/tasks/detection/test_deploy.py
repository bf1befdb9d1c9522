"""The deploy half: preprocessing, postprocessing, both response shapes, agreement of two engines."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import nms

from lab.core.errors import ArtifactError, DataError
from lab.tasks.detection import deploy
from lab.tasks.detection.numpy_boxes import keep_indices, pairs
from lab.tasks.detection.responses import Detections

OPTIONS = {"size": 50, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
LABELS = ("cat", "dog", "bird")
IMAGES = [np.zeros((100, 200, 3), np.uint8), np.zeros((30, 30, 3), np.uint8)]


def outputs() -> dict[str, np.ndarray]:
    """Two images with two and no detections."""
    boxes = np.zeros((2, 4, 4), np.float32)
    boxes[0, :2] = [[0.1, 0.2, 0.5, 0.6], [0.0, 0.0, 1.0, 0.5]]
    return {
        "boxes": boxes,
        "scores": np.asarray([[0.9, 0.25, 0, 0], [0, 0, 0, 0]], np.float32),
        "labels": np.asarray([[1, 2, -1, -1], [-1] * 4]),
        "num_detections": np.asarray([2, 0]),
    }


def found() -> Detections:
    return deploy.postprocess(outputs(), LABELS, IMAGES, OPTIONS)[0]


def test_images_of_any_size_and_grey_ones_become_squares() -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, shape).astype(np.uint8) for shape in ((50, 50, 3), (80, 33, 1))]
    x = deploy.preprocess(images, OPTIONS)["image"]
    assert (x.shape, x.dtype) == ((2, 3, 50, 50), np.float32)
    np.testing.assert_allclose(x[0], images[0].transpose(2, 0, 1) / 127.5 - 1, atol=1e-5)
    assert np.array_equal(x[1, 0], x[1, 2])
    assert deploy.preprocess([], OPTIONS)["image"].shape == (0, 3, 50, 50)


@pytest.mark.parametrize("shape", [(31, 77, 3), (400, 120, 3), (50, 50, 3), (1, 1, 3)])
def test_without_antialiasing_pixels_equal_torchs_interpolation(shape: tuple[int, int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    chw = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(chw, (50, 50), mode="bilinear", align_corners=False)[0]
    actual = deploy.to_square(image, 50, antialias=False).transpose(2, 0, 1)
    np.testing.assert_allclose(actual, expected.numpy(), atol=5e-3)


def test_what_is_no_image_or_no_preprocessing_is_refused() -> None:
    for bad in (np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(DataError, match="not an image"):
            deploy.preprocess([bad], OPTIONS)
    with pytest.raises(ArtifactError, match="preprocessing is not understood"):
        deploy.preprocess([], {"size": 50, "crop": "center"})


def test_detections_are_pixels_of_the_original_image() -> None:
    first, second = deploy.postprocess(outputs(), LABELS, IMAGES, OPTIONS)
    np.testing.assert_allclose(first.boxes_K4, [[20, 20, 100, 60], [0, 0, 200, 50]], rtol=1e-6)
    assert (first.classes_K.tolist(), len(second.scores_K)) == ([1, 2], 0)
    (certain, _) = deploy.postprocess(outputs(), LABELS, IMAGES, OPTIONS, threshold=0.3)
    assert certain.classes_K.tolist() == [1]
    (one, _) = deploy.postprocess(outputs(), LABELS, IMAGES, OPTIONS, max_detections=1)
    assert one.scores_K.tolist() == [pytest.approx(0.9)]


def test_outputs_must_fit_sizes_and_labels() -> None:
    with pytest.raises(DataError, match="differ in number"):
        deploy.postprocess(outputs(), LABELS, IMAGES[:1], OPTIONS)
    with pytest.raises(DataError, match="labels do not fit"):
        deploy.postprocess(outputs(), LABELS[:2], IMAGES, OPTIONS)


def test_response_is_sagemakers() -> None:
    answer = json.loads(deploy.respond(found(), "application/json"))
    assert set(answer) == {"prediction"}
    assert answer["prediction"][0] == pytest.approx([1.0, 0.9, 0.1, 0.2, 0.5, 0.6], abs=1e-6)
    assert isinstance(answer["prediction"][0][0], float)


def test_annotation_response_is_sagemakers() -> None:
    for accept in ("application/json;annotation=1", "application/json; annotation=1"):
        answer = json.loads(deploy.respond(found(), accept))
        assert answer["image_size"] == [{"width": 200, "height": 100, "depth": 3}]
        first = answer["annotations"][0]
        assert first == {
            "class_id": 1, "score": pytest.approx(0.9), "left": pytest.approx(20), "top": pytest.approx(20),
            "width": pytest.approx(80), "height": pytest.approx(40),
        }  # fmt: skip
    with pytest.raises(DataError, match="cannot be sent in that form"):
        deploy.respond(found(), "text/html")


def test_record_for_the_command_line() -> None:
    record = deploy.to_record(found(), LABELS)
    assert json.loads(json.dumps(record))["size"] == [100, 200]
    assert record["detections"][1] == {"label": "bird", "score": 0.25, "box": [0.0, 0.0, 200.0, 50.0]}


def test_drawing_changes_the_picture_and_not_its_size() -> None:
    image = np.full((100, 200, 1), 90, np.uint8)
    picture = deploy.draw(image, found(), LABELS)
    assert picture.shape[2] == 3
    assert (picture != 90).any()


@given(st.integers(0, 2**32 - 1), st.integers(0, 30), st.floats(0.05, 0.95))
def test_suppression_equals_torchvisions_and_is_idempotent(seed: int, count: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    boxes = np.sort(rng.random((count, 2, 2)), axis=1).reshape(count, 4).astype(np.float32)
    kept = keep_indices(boxes, threshold)
    scores = torch.arange(count, 0, -1, dtype=torch.float32)
    assert kept.tolist() == nms(torch.from_numpy(boxes), scores, threshold).tolist()
    assert keep_indices(boxes[kept], threshold).tolist() == list(range(len(kept)))


def test_detections_that_changed_places_agree() -> None:
    first, second = outputs(), outputs()
    for name in ("boxes", "scores", "labels"):
        second[name][0, :2] = second[name][0, [1, 0]]
    assert deploy.agreement(first, second) == 1.0
    left, right = deploy.aligned(first, second)
    assert all(np.array_equal(left[name], right[name]) for name in left)
    assert left["num_detections"].tolist() == [2, 0]


def test_missing_and_moved_detections_do_not_agree() -> None:
    first, second = outputs(), outputs()
    second["num_detections"][0] = 1
    assert deploy.agreement(first, second) == pytest.approx(2 / 3)
    moved = outputs()
    moved["boxes"][0, 0] += 0.01
    assert deploy.agreement(first, moved) == 0.5
    left, right = deploy.aligned(first, moved)
    assert np.abs(left["boxes"] - right["boxes"]).max() == pytest.approx(0.01, abs=1e-6)
    relabelled = outputs()
    relabelled["labels"][0, 0] = 0
    assert deploy.agreement(first, relabelled) == 0.5
    nothing = {**outputs(), "num_detections": np.asarray([0, 0])}
    assert deploy.agreement(nothing, nothing) == 1.0


def test_boxes_without_area_are_paired_by_their_corners() -> None:
    boxes = np.asarray([[0.0, 0.2, 0.0, 0.7], [1.0, 1.0, 1.0, 1.0]], np.float32)
    ours, theirs = pairs(boxes, np.asarray([0, 0]), boxes[::-1], np.asarray([0, 0]), 0.999)
    assert (ours.tolist(), theirs.tolist()) == ([0, 1], [1, 0])
