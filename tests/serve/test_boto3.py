"""Unmodified boto3, control plane and runtime, against a running endpoint."""

from __future__ import annotations

import io
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.serve.models import NUM_CLASSES, SIZE, weights
from tests.serve.served import Served, serving, write_config

CREDENTIALS = {"region_name": "eu-west-1", "aws_access_key_id": "any", "aws_secret_access_key": "any"}
ONCE = Config(retries={"total_max_attempts": 1})


@pytest.fixture
def control(endpoint: Served) -> Iterator[Any]:
    client = boto3.client("sagemaker", endpoint_url=endpoint.url, config=ONCE, **CREDENTIALS)
    yield client
    client.close()


@pytest.fixture
def runtime(endpoint: Served) -> Iterator[Any]:
    client = boto3.client("sagemaker-runtime", endpoint_url=endpoint.url, config=ONCE, **CREDENTIALS)
    yield client
    client.close()


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((1, 3, SIZE, SIZE)).astype(np.float32)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def wait_for(control: Any, name: str, status: str = "InService") -> dict[str, Any]:
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        found = control.describe_endpoint(EndpointName=name)
        if found["EndpointStatus"] == status:
            return found
        time.sleep(0.1)
    raise AssertionError(found)


def deploy(control: Any, model_root: Path, name: str, variants: dict[str, tuple[str, float]]) -> dict[str, Any]:
    """{variant: (folder, weight)} as an endpoint in service."""
    entries = []
    for variant, (folder, weight) in variants.items():
        model = f"{name}-{variant}"
        control.create_model(
            ModelName=model, ExecutionRoleArn="arn:aws:iam::000000000000:role/any",
            PrimaryContainer={"Image": "any", "ModelDataUrl": (model_root / folder).as_uri()},
        )  # fmt: skip
        entries.append({"VariantName": variant, "ModelName": model, "InitialInstanceCount": 1,
                        "InstanceType": "ml.m5.large", "InitialVariantWeight": weight})  # fmt: skip
    control.create_endpoint_config(EndpointConfigName=f"{name}-1", ProductionVariants=entries)
    created = control.create_endpoint(EndpointName=name, EndpointConfigName=f"{name}-1")
    assert created["EndpointArn"].endswith(f"endpoint/{name}")
    return wait_for(control, name)


def test_invoke_gives_the_models_own_numbers(runtime: Any) -> None:
    x = image()
    answer = runtime.invoke_endpoint(
        EndpointName="shop",
        Body=npy(x),
        ContentType="application/x-npy",
        Accept="application/x-npy",
        TargetVariant="two",
    )
    assert answer["InvokedProductionVariant"] == "two"
    got = np.load(io.BytesIO(answer["Body"].read()))
    np.testing.assert_allclose(got, x.reshape(1, -1) @ weights(1), rtol=1e-5)


def test_create_invoke_update_delete(control: Any, runtime: Any, model_root: Path) -> None:
    described = deploy(control, model_root, "mine", {"a": ("first", 3.0), "b": ("second", 1.0)})
    assert {v["VariantName"]: v["CurrentWeight"] for v in described["ProductionVariants"]} == {"a": 3.0, "b": 1.0}
    assert control.describe_model(ModelName="mine-a")["PrimaryContainer"]["Image"] == "any"
    assert len(control.describe_endpoint_config(EndpointConfigName="mine-1")["ProductionVariants"]) == 2
    assert "mine" in [e["EndpointName"] for e in control.list_endpoints(NameContains="min")["Endpoints"]]

    body = json.dumps({"instances": image().tolist()})
    seen = Counter(
        runtime.invoke_endpoint(EndpointName="mine", Body=body, ContentType="application/json")[
            "InvokedProductionVariant"
        ]
        for _ in range(400)
    )
    assert 250 <= seen["a"] <= 345  # 300 expected, standard deviation 8.7: five of them

    control.update_endpoint_weights_and_capacities(
        EndpointName="mine",
        DesiredWeightsAndCapacities=[
            {"VariantName": "a", "DesiredWeight": 0},
            {"VariantName": "b", "DesiredWeight": 1},
        ],
    )
    seen = Counter(
        runtime.invoke_endpoint(EndpointName="mine", Body=body, ContentType="application/json")[
            "InvokedProductionVariant"
        ]
        for _ in range(20)
    )
    assert seen == {"b": 20}

    control.create_endpoint_config(
        EndpointConfigName="mine-2",
        ProductionVariants=[{"VariantName": "c", "ModelName": "mine-a", "InitialInstanceCount": 1,
                             "InstanceType": "ml.m5.large"}],
    )  # fmt: skip
    control.update_endpoint(EndpointName="mine", EndpointConfigName="mine-2")
    assert [v["VariantName"] for v in wait_for(control, "mine")["ProductionVariants"]] == ["c"]
    answer = runtime.invoke_endpoint(EndpointName="mine", Body=body, ContentType="application/json")
    assert answer["InvokedProductionVariant"] == "c"

    control.delete_endpoint(EndpointName="mine")
    ends = time.monotonic() + 30
    while "mine" in [e["EndpointName"] for e in control.list_endpoints()["Endpoints"]] and time.monotonic() < ends:
        time.sleep(0.1)
    with pytest.raises(ClientError, match="Could not find endpoint"):
        control.describe_endpoint(EndpointName="mine")
    control.delete_endpoint_config(EndpointConfigName="mine-1")
    control.delete_model(ModelName="mine-b")
    with pytest.raises(ClientError, match="Could not find model"):
        control.describe_model(ModelName="mine-b")


def test_a_model_that_does_not_pass_the_gate_fails_the_endpoint(control: Any, model_root: Path) -> None:
    control.create_model(ModelName="wrong", PrimaryContainer={"ModelDataUrl": str(model_root / "wrong-golden")})
    variant = {"VariantName": "v", "ModelName": "wrong", "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
    control.create_endpoint_config(EndpointConfigName="wrong", ProductionVariants=[variant])
    control.create_endpoint(EndpointName="wrong", EndpointConfigName="wrong")
    failed = wait_for(control, "wrong", "Failed")
    assert "is not what the model gave when it was built" in failed["FailureReason"]
    control.delete_endpoint(EndpointName="wrong")


@pytest.mark.parametrize(
    ("operation", "arguments", "message"),
    [
        (
            "create_model",
            {"ModelName": "m", "PrimaryContainer": {"ModelDataUrl": "/etc"}},
            "outside of the allowed folder",
        ),
        (
            "create_model",
            {"ModelName": "m", "PrimaryContainer": {"ModelDataUrl": "../../etc"}},
            "outside of the allowed",
        ),
        ("create_model", {"ModelName": "m", "PrimaryContainer": {"ModelDataUrl": "s3://bucket/m"}}, "are not fetched"),
        ("create_model", {"ModelName": "m", "PrimaryContainer": {"ModelDataUrl": "nothing"}}, "there is no model"),
        (
            "create_endpoint",
            {"EndpointName": "e", "EndpointConfigName": "none"},
            "Could not find endpoint configuration",
        ),
        ("describe_endpoint", {"EndpointName": "none"}, "Could not find endpoint"),
        ("delete_model", {"ModelName": "none"}, "Could not find model"),
        ("create_training_job", None, "is not supported"),
    ],
)
def test_refusals_name_what_is_wrong(control: Any, operation: str, arguments: Any, message: str) -> None:
    if arguments is None:
        operation, arguments = "list_training_jobs", {}
    with pytest.raises(ClientError, match=message):
        getattr(control, operation)(**arguments)


def test_weights_that_are_none_are_refused(control: Any) -> None:
    with pytest.raises(ClientError, match="unknown variants"):
        control.update_endpoint_weights_and_capacities(
            EndpointName="shop", DesiredWeightsAndCapacities=[{"VariantName": "three", "DesiredWeight": 1}]
        )


def test_runtime_errors_have_their_names(runtime: Any) -> None:
    with pytest.raises(runtime.exceptions.ValidationError, match="there is no variant 'three'"):
        runtime.invoke_endpoint(
            EndpointName="shop", Body=npy(image()), ContentType="application/x-npy", TargetVariant="three"
        )
    with pytest.raises(runtime.exceptions.ValidationError, match="no endpoint 'none'"):
        runtime.invoke_endpoint(EndpointName="none", Body=b"{}", ContentType="application/json")
    with pytest.raises(runtime.exceptions.ValidationError, match="wrong shape"):
        runtime.invoke_endpoint(EndpointName="shop", Body=npy(image()[:, :2]), ContentType="application/x-npy")


def test_a_session_keeps_its_variant(runtime: Any) -> None:
    opened = runtime.invoke_endpoint(
        EndpointName="shop", Body=npy(image()), ContentType="application/x-npy", SessionId="NEW_SESSION"
    )
    session, expires = opened["NewSessionId"].split("; Expires=")
    assert expires.endswith("GMT")
    again = [
        runtime.invoke_endpoint(
            EndpointName="shop", Body=npy(image()), ContentType="application/x-npy", SessionId=session
        )
        for _ in range(20)
    ]
    assert {answer["InvokedProductionVariant"] for answer in again} == {opened["InvokedProductionVariant"]}


def test_custom_attributes_come_back(runtime: Any) -> None:
    answer = runtime.invoke_endpoint(
        EndpointName="shop", Body=npy(image()), ContentType="application/x-npy", CustomAttributes="trace=1"
    )
    assert answer["CustomAttributes"] == "trace=1"


def test_six_mebibytes_are_the_limit(runtime: Any, endpoint: Served) -> None:
    rows = (6_291_456 - 128) // (3 * SIZE * SIZE * 4)
    x = np.zeros((rows, 3, SIZE, SIZE), np.float32)
    answer = runtime.invoke_endpoint(
        EndpointName="shop", Body=npy(x), ContentType="application/x-npy", Accept="application/x-npy"
    )
    assert np.load(io.BytesIO(answer["Body"].read())).shape == (rows, NUM_CLASSES)
    assert endpoint.call("POST", "/endpoints/shop/invocations", b"0" * 6_291_457).status == 413


def test_a_canary_is_promoted_and_a_broken_one_rolled_back(model_root: Path, tmp_path: Path) -> None:
    """EP-30..EP-39: UpdateEndpoint with a canary, under the guard; the traffic comes from another thread."""
    config = write_config(tmp_path / "c.yaml", tmp_path / "state", security={"model_root": str(model_root)})
    canary = {"Type": "CANARY", "WaitIntervalInSeconds": 1, "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 50}}
    policy = {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": canary}}
    with serving(config) as served:
        control = boto3.client("sagemaker", endpoint_url=served.url, config=ONCE, **CREDENTIALS)
        deploy(control, model_root, "shop", {"blue": ("first", 1.0)})
        faults = {"LAB_FAULT_ERROR_RATE": "1.0"}
        for name, folder, environment in (("green", "second", {}), ("red", "first", faults)):
            container = {"ModelDataUrl": str(model_root / folder), "Environment": environment}
            control.create_model(ModelName=name, PrimaryContainer=container)
            variant = {"VariantName": name, "ModelName": name, "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
            control.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
        stop = threading.Event()
        statuses: list[int] = []

        def invoke() -> int:
            kind = {"content-type": "application/x-npy"}
            return served.call("POST", "/endpoints/shop/invocations", npy(image()), kind).status

        def traffic() -> None:
            while not stop.is_set():
                statuses.append(invoke())

        thread = threading.Thread(target=traffic)
        thread.start()
        try:
            control.update_endpoint(EndpointName="shop", EndpointConfigName="green", DeploymentConfig=policy)
            assert control.describe_endpoint(EndpointName="shop")["EndpointStatus"] == "Updating"
            promoted = wait_for(control, "shop")
            assert (promoted["EndpointConfigName"], promoted.get("FailureReason")) == ("green", None)
            assert [v["VariantName"] for v in promoted["ProductionVariants"]] == ["green"]
            assert set(statuses) == {200}
            control.update_endpoint(EndpointName="shop", EndpointConfigName="red", DeploymentConfig=policy)
            back = wait_for(control, "shop")
        finally:
            stop.set()
            thread.join()
        assert back["FailureReason"].startswith("rolled back: red")
        assert [v["VariantName"] for v in back["ProductionVariants"]] == ["green"]
        assert 424 in statuses
        assert invoke() == 200
        control.close()
