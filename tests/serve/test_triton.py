"""Unmodified tritonclient[http] against a running endpoint."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.serve.models import SIZE, weights
from tests.serve.served import Served


@pytest.fixture
def client(endpoint: Served) -> Iterator[triton.InferenceServerClient]:
    opened = triton.InferenceServerClient(f"{endpoint.host}:{endpoint.port}")
    yield opened
    opened.close()


def request(x: np.ndarray, *, binary: bool) -> triton.InferInput:
    given = triton.InferInput("image", list(x.shape), "FP32")
    given.set_data_from_numpy(x, binary_data=binary)
    return given


X = np.random.default_rng(0).random((3, 3, SIZE, SIZE)).astype(np.float32)


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("shop")
    assert client.is_model_ready("shop", "two")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    metadata = client.get_model_metadata("shop")
    assert metadata["versions"] == ["one", "two"]
    assert metadata["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 3, SIZE, SIZE]}]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_infer(client: triton.InferenceServerClient, binary_in: bool, binary_out: bool) -> None:
    wanted = triton.InferRequestedOutput("logits", binary_data=binary_out)
    answer = client.infer("shop", [request(X, binary=binary_in)], outputs=[wanted], model_version="one", request_id="7")
    np.testing.assert_allclose(answer.as_numpy("logits"), X.reshape(3, -1) @ weights(0), rtol=1e-4, atol=1e-5)
    assert answer.get_response()["id"] == "7"
    assert answer.get_response()["model_version"] == "one"


def test_a_parameter_pins_a_variant(client: triton.InferenceServerClient) -> None:
    for name in ("one", "two"):
        answers = [client.infer("shop", [request(X, binary=True)], parameters={"variant": name}) for _ in range(5)]
        assert {answer.get_response()["model_version"] for answer in answers} == {name}


def test_errors_say_what_is_wrong(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="wrong shape"):
        client.infer("shop", [request(X[:, :2], binary=True)])
    with pytest.raises(InferenceServerException, match="there is no endpoint 'none'"):
        client.infer("none", [request(X, binary=True)])
    with pytest.raises(InferenceServerException, match="no variant 'three'"):
        client.infer("shop", [request(X, binary=True)], model_version="three")
    wrong = triton.InferInput("image", [1, 3, SIZE, SIZE], "FP64")
    wrong.set_data_from_numpy(X[:1].astype(np.float64))
    with pytest.raises(InferenceServerException, match="wrong datatype"):
        client.infer("shop", [wrong])


def test_asynchronous_requests_are_all_answered(client: triton.InferenceServerClient) -> None:
    pending = [client.async_infer("shop", [request(X, binary=True)]) for _ in range(20)]
    assert all(one.get_result().as_numpy("logits").shape == (3, 4) for one in pending)
