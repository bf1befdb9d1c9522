"""The deployment half: signature, responses, scores; without torch."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]
from PIL import Image

from lab.core.errors import DataError
from lab.data.dataset import Sample
from lab.tasks.segmentation import deploy
from lab.tasks.segmentation.geometry import SegmentationPreprocessing

LABELS = ("ground", "red", "green")
PREPROCESSING = SegmentationPreprocessing((3, 16, 16)).to_dict()


def prediction(size: tuple[int, int] = (20, 11), seed: int = 0) -> deploy.Prediction:
    scores = np.random.default_rng(seed).standard_normal((3, *size)).astype(np.float32)
    return deploy.Prediction(scores, LABELS)


def record_class() -> Any:
    """SageMaker's Record message, from its definition, by Google's own library."""
    file = descriptor_pb2.FileDescriptorProto(name="record.proto", package="aialgs.data", syntax="proto2")
    repeated, optional = 3, 1
    for name, kind in (("Float32Tensor", 2), ("Int32Tensor", 5)):
        values = file.message_type.add(name=name).field.add(name="values", number=1, type=kind, label=repeated)
        values.options.packed = True
    value = file.message_type.add(name="Value")
    value.oneof_decl.add(name="value")
    for name, number in (("Float32Tensor", 2), ("Int32Tensor", 7)):
        field = value.field.add(name=f"{name[:-6].lower()}_tensor", number=number, type=11, label=optional)
        field.type_name, field.oneof_index = f".aialgs.data.{name}", 0
    record = file.message_type.add(name="Record")
    entry = record.nested_type.add(name="FeaturesEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=9, label=optional)
    entry.field.add(name="value", number=2, type=11, label=optional, type_name=".aialgs.data.Value")
    record.field.add(name="features", number=1, type=11, label=repeated, type_name=".aialgs.data.Record.FeaturesEntry")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("aialgs.data.Record"))


def test_signature() -> None:
    signature = deploy.signature(16, 3)
    assert signature.inputs[0].to_dict() == {"name": "image", "dtype": "float32", "shape": ["batch", 3, 16, 16]}
    assert signature.outputs[0].to_dict() == {"name": "logits", "dtype": "float32", "shape": ["batch", 3, 16, 16]}
    images = [np.zeros((5, 30, 3), np.uint8), np.zeros((16, 9, 1), np.uint8)]
    assert signature.check_inputs(deploy.preprocess(images, PREPROCESSING)) == {"batch": 4}
    assert deploy.preprocess([], PREPROCESSING)["image"].shape == (0, 3, 16, 16)


def test_whole_images_come_alone() -> None:
    whole = SegmentationPreprocessing((3, 16, 16), mode="whole").to_dict()
    images = [np.zeros((5, 30, 3), np.uint8)]
    assert deploy.preprocess(images, whole)["image"].shape == (1, 3, 8, 32)
    assert deploy.signature(None, 3).check_inputs(deploy.preprocess(images, whole)) == {
        "batch": 1,
        "height": 8,
        "width": 32,
    }
    assert (deploy.inputs_per_call(whole), deploy.inputs_per_call(PREPROCESSING)) == (1, None)
    with pytest.raises(DataError, match="one image at a time"):
        deploy.preprocess(images * 2, whole)


def test_predictions_are_of_the_images_own_size() -> None:
    sizes = [(20, 11), (16, 16), (3, 40)]
    images = [np.zeros((*size, 3), np.uint8) for size in sizes]
    num_rows = len(deploy.preprocess(images, PREPROCESSING)["image"])
    outputs = {"logits": np.random.default_rng(0).standard_normal((num_rows, 3, 16, 16)).astype(np.float32)}
    found = deploy.postprocess(outputs, LABELS, images, PREPROCESSING)
    assert [item.mask.shape for item in found] == sizes
    np.testing.assert_allclose(found[0].probabilities.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(found[1].mask, outputs["logits"][2].argmax(axis=0))
    with pytest.raises(DataError, match="do not fit the images"):
        deploy.postprocess(outputs, LABELS, images[:2], PREPROCESSING)
    with pytest.raises(DataError, match="labels do not fit"):
        deploy.postprocess(outputs, LABELS[:2], images, PREPROCESSING)


def test_png_is_the_mask() -> None:
    made = prediction()
    image = Image.open(io.BytesIO(deploy.respond(made)))
    assert (image.format, image.mode, image.size) == ("PNG", "L", (11, 20))
    np.testing.assert_array_equal(np.asarray(image), made.mask)


@pytest.mark.parametrize("accept", ["application/x-protobuf", "application/x-recordio-protobuf"])
def test_protobuf_is_read_by_googles_library(accept: str) -> None:
    made = prediction()
    body = deploy.respond(made, accept)
    magic, length = struct.unpack_from("<II", body)
    assert magic == 0xCED7230A
    assert len(body) == 8 + length + -length % 4
    record = record_class().FromString(body[8 : 8 + length])
    assert sorted(record.features) == ["shape", "target"]
    shape = list(record.features["shape"].int32_tensor.values)
    assert shape == [1, 3, 20, 11]
    values = np.array(record.features["target"].float32_tensor.values, np.float32).reshape(shape)
    np.testing.assert_array_equal(values[0], made.probabilities)


def test_records_are_json_with_shares() -> None:
    scores = np.zeros((3, 2, 5), np.float32)
    scores[2, 0] = 1
    record = deploy.to_record(deploy.Prediction(scores, LABELS), LABELS)
    assert record == {
        "size": [2, 5],
        "classes": [
            {"label": "ground", "share": 0.5, "pixels": 5},
            {"label": "green", "share": 0.5, "pixels": 5},
        ],
    }
    assert json.loads(deploy.respond(deploy.Prediction(scores, LABELS), "application/json")) == record


def test_an_unknown_media_type_lists_those_there_are() -> None:
    with pytest.raises(DataError, match="image/png, application/x-protobuf"):
        deploy.respond(prediction(), "text/html")


def test_pictures_are_of_the_images_size() -> None:
    image = np.full((20, 11, 3), 200, np.uint8)
    drawn = deploy.draw(image, prediction(), LABELS)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert (drawn != image).any()


def test_scorer_counts_each_image_at_its_own_size() -> None:
    truth = np.zeros((4, 6), np.uint8)
    truth[0, 0] = 255
    truth[3] = 1
    sample = Sample(np.zeros((4, 6, 3), np.uint8), truth, "a.png")
    scorer = deploy.scorer(LABELS, PREPROCESSING)
    scores = np.zeros((1, 3, 16, 16), np.float32)
    scores[:, 0] = 1
    scorer.update({"logits": scores}, [sample])
    expected = {"miou": (17 / 23 + 0) / 2, "pixel_accuracy": 17 / 23, "mean_class_accuracy": 0.5}
    assert scorer.compute() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((4, 7), np.uint8), "x.png: the mask does not fit"),
        (np.full((4, 6), 3, np.uint8), "x.png: a class out of range"),
        (7, "x.png: the mask does not fit"),
    ],
)
def test_bad_masks_are_named(mask: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        deploy.check_mask(Sample(np.zeros((4, 6, 3), np.uint8), mask, "x.png"), 3)


def test_agreement_is_the_share_of_equal_pixels() -> None:
    first = {"logits": np.zeros((1, 2, 2, 2), np.float32)}
    second = {"logits": first["logits"].copy()}
    second["logits"][0, 1, 0, 0] = 1
    assert deploy.agreement(first, second) == 0.75
    expected, actual = deploy.aligned(first, second)
    assert expected["logits"] is first["logits"]
    assert actual["logits"] is second["logits"]


def test_importing_it_loads_no_torch(repo: Path) -> None:
    modules = "lab.tasks.segmentation.deploy, lab.tasks.segmentation.config"
    heavy = "('torch', 'torchvision', 'matplotlib', 'lightning', 'mlflow', 'tvm', 'onnx', 'pandas')"
    code = f"import sys, {modules}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=repo, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
