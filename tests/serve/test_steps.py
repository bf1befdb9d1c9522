"""Inference pipelines: models in sequence as one variant, in process; what does not fit is refused before the start."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lab.artifacts.manifest import Manifest
from lab.core.errors import ConfigError, IntegrityError, ParityError
from lab.serve.config import EndpointConfig, SecurityConfig, VariantConfig
from lab.serve.engine.gate import pass_gate
from lab.serve.engine.model import ServedModel
from lab.serve.models import of_config, prepared
from lab.serve.steps import pipeline_manifest
from lab.tasks.classification.deploy import softmax
from tests.serve.models import LABELS, NUM_CLASSES, SIZE, classifier, scaler, weights
from tests.serve.served import serving, write_config

IMAGE, LOGITS = ("batch", 3, SIZE, SIZE), ("batch", NUM_CLASSES)
HALF = 0.5


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A step that brightens, a classifier, one that makes it less sure of itself, and one that fits nothing."""
    root = tmp_path_factory.mktemp("steps")
    scaler(root / "brighten", 2.0, "raw", "image", IMAGE)
    classifier(root / "net", seed=0)
    scaler(root / "calibrate", HALF, "sharp", "logits", LOGITS)
    scaler(root / "other", 1.0, "x", "y", ("batch", NUM_CLASSES + 1))
    return root


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def opened(root: Path, *names: str) -> ServedModel:
    config = VariantConfig(name="v", steps=[str(root / name) for name in names])  # type: ignore[arg-type]
    return ServedModel(root / names[0], config, [root / name for name in names])


def test_a_pipeline_reads_with_its_first_step_and_answers_with_its_task(steps: Path) -> None:
    model = opened(steps, "net", "calibrate")
    assert (model.manifest.task, model.manifest.labels) == ("classification", LABELS)
    assert model.batches
    assert model.runner.name == "onnxruntime > onnxruntime"
    assert not pass_gate(model).golden  # the second step has none
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    (record,), outputs, _ = model.predict([pixels], {})
    alone = (
        opened(steps, "net", "calibrate")
        .parts[0]
        .runner.run({"image": np.asarray(pixels.transpose(2, 0, 1)[None] / 255, np.float32)})
    )
    np.testing.assert_allclose(outputs["logits"], HALF * alone["logits"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(record["probabilities"], softmax(HALF * alone["logits"])[0], rtol=1e-4)


def test_without_a_task_at_its_head_a_pipeline_takes_tensors(steps: Path) -> None:
    model = opened(steps, "brighten", "net", "calibrate")
    assert (model.manifest.task, model.manifest.name) == (None, "brighten > linear-0 > calibrate")
    x = np.random.default_rng(1).random((3, 3, SIZE, SIZE)).astype(np.float32)
    expected = (2.0 * x).reshape(3, -1) @ weights(0) * HALF
    np.testing.assert_allclose(model.run({"raw": x})["logits"], expected, rtol=1e-4, atol=1e-4)


def test_every_steps_golden_sample_is_checked(steps: Path, tmp_path: Path) -> None:
    classifier(tmp_path / "net", seed=1, golden="wrong")
    shutil.copytree(steps / "brighten", tmp_path / "brighten")
    with pytest.raises(ParityError, match="'logits' is not what the model gave"):
        pass_gate(opened(tmp_path, "brighten", "net"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["net", "other"], r"output 'logits' does not fit the input 'x' of step 2 \(other\): another shape"),
        (["net", "brighten"], "another number of dimensions"),
    ],
)
def test_steps_that_do_not_fit_are_refused_before_anything_is_loaded(
    steps: Path, names: list[str], message: str
) -> None:
    config = EndpointConfig.model_validate(
        {"endpoint": "e", "variants": [{"name": "v", "steps": [str(steps / name) for name in names]}]}
    )
    with pytest.raises(ConfigError, match=message):
        of_config(config, steps / "store", {})


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ({"name": "v"}, "either a model or steps"),
        ({"name": "v", "model": "m", "steps": ["a", "b"]}, "either a model or steps"),
        ({"name": "v", "steps": ["a"]}, "2 to 15 steps, not 1"),
        ({"name": "v", "steps": ["a"] * 16}, "2 to 15 steps, not 16"),
        ({"name": "v", "steps": [{"model": "a"}, {"model": "b", "input": {}}]}, "input"),
    ],
)
def test_mistakes_in_the_configuration_are_named(variant: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VariantConfig.model_validate(variant)


def test_programs_are_no_steps(steps: Path) -> None:
    plain = Manifest.load(steps / "net")
    program = Manifest.from_dict(plain.to_dict() | {"functions": {"encode": plain.signature.to_dict()}})
    with pytest.raises(ConfigError, match=r"step 2 \(linear-0\) is a program"):
        pipeline_manifest([plain, program], [{}, {}])


def test_a_damaged_step_is_refused_and_identity_covers_all_of_them(steps: Path, tmp_path: Path) -> None:
    shutil.copytree(steps, tmp_path / "copy")
    folders = [tmp_path / "copy" / "net", tmp_path / "copy" / "calibrate"]
    config = VariantConfig(name="v", steps=list(map(str, folders)))  # type: ignore[arg-type]
    first = prepared(config, folders, SecurityConfig(), tmp_path / "store")
    shutil.rmtree(folders[1])
    scaler(folders[1], 0.25, "sharp", "logits", LOGITS)
    second = prepared(config, folders, SecurityConfig(), tmp_path / "store")
    assert first.identity["sha256"] != second.identity["sha256"]
    assert second.identity["model_id"] == "linear-0 > calibrate"
    (folders[1] / "model.onnx").write_bytes(b"something else")
    with pytest.raises(IntegrityError, match=r"model\.onnx is not the file"):
        prepared(config, folders, SecurityConfig(), tmp_path / "store")


def test_a_pipeline_is_served_beside_its_model_and_made_by_boto3(steps: Path, tmp_path: Path) -> None:
    from tests.serve.test_boto3 import CREDENTIALS, ONCE, boto3, wait_for

    wired = {"model": str(steps / "calibrate"), "inputs": {"sharp": "logits"}}
    config = write_config(
        tmp_path / "c.yaml", tmp_path / "state",
        variants=[
            {"name": "alone", "model": str(steps / "net")},
            {"name": "calibrated", "steps": [str(steps / "net"), wired]},
        ],
        security={"model_root": str(steps)},
    )  # fmt: skip
    picture = io.BytesIO()
    pixels = np.random.default_rng(3).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(picture, "PNG")
    logits = (pixels.transpose(2, 0, 1)[None] / 255).astype(np.float32).reshape(1, -1) @ weights(0)
    with serving(config) as served:
        for name, factor in (("alone", 1.0), ("calibrated", HALF)):
            headers = {"content-type": "image/png", "x-amzn-sagemaker-target-variant": name}
            reply = served.call("POST", "/endpoints/shop/invocations", picture.getvalue(), headers)
            np.testing.assert_allclose(json.loads(reply.body), softmax(factor * logits)[0], rtol=1e-3, atol=1e-4)

        control = boto3.client("sagemaker", endpoint_url=served.url, config=ONCE, **CREDENTIALS)
        shown = control.describe_model(ModelName="shop-calibrated")
        assert [c["ModelDataUrl"] for c in shown["Containers"]] == [(steps / n).as_uri() for n in ("net", "calibrate")]
        containers = [{"Image": "any", "ModelDataUrl": name} for name in ("brighten", "net", "calibrate")]
        control.create_model(
            ModelName="three", ExecutionRoleArn="arn:aws:iam::000000000000:role/any", Containers=containers
        )
        variant = {"VariantName": "v", "ModelName": "three", "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
        control.create_endpoint_config(EndpointConfigName="three", ProductionVariants=[variant])
        control.create_endpoint(EndpointName="three", EndpointConfigName="three")
        wait_for(control, "three")
        x = np.random.default_rng(4).random((2, 3, SIZE, SIZE)).astype(np.float32)
        headers = {"content-type": "application/x-npy", "accept": "application/x-npy"}
        reply = served.call("POST", "/endpoints/three/invocations", npy(x), headers)
        expected = (2.0 * x).reshape(2, -1) @ weights(0) * HALF
        np.testing.assert_allclose(np.load(io.BytesIO(reply.body)), expected, rtol=1e-4, atol=1e-4)
        again = served.call(
            "POST", "/endpoints/shop/reload", b'{"variant": "calibrated"}', {"content-type": "application/json"}
        )
        assert (again.status, json.loads(again.body)["engine"]) == (200, "onnxruntime > onnxruntime")
        control.close()
