"""Requests and responses as SageMaker's clients send and expect them (DAR-O5..O7)."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from lab.core.errors import DataError
from lab.tasks.forecasting.responses import BATCH_VARIABLE, Forecast, read_request, respond, write_response

INSTANCE = {"start": "2020-01-01 00:00:00", "target": [1, None, 3], "cat": [0]}


def body(configuration: Any = None, instances: Any = None) -> bytes:
    request = {"instances": [INSTANCE] if instances is None else instances}
    return json.dumps(request | ({"configuration": configuration} if configuration is not None else {})).encode()


def made(**fields: Any) -> Forecast:
    samples = np.arange(12, dtype=np.float32).reshape(4, 3)
    return Forecast("s", np.datetime64("2020-04-01T00:00:00", "s"), "M", samples, **fields)


def test_a_request_in_full() -> None:
    configuration = {"num_samples": 50, "output_types": ["mean", "quantiles", "samples"], "quantiles": ["0.5", "0.9"]}
    request = read_request(body(configuration), "application/json; charset=utf-8")
    (series,) = request.inputs
    assert series.cat == (0,)
    np.testing.assert_array_equal(series.target_T, [1, np.nan, 3])
    assert request.options == {
        "num_samples": 50,
        "output_types": ("mean", "quantiles", "samples"),
        "quantiles": ("0.5", "0.9"),
    }
    assert not request.lines


def test_the_configuration_is_optional() -> None:
    assert read_request(body()).options == {}


def test_a_bad_instance_does_not_spoil_the_others() -> None:
    request = read_request(body(instances=[INSTANCE, {"target": [1]}, INSTANCE]))
    assert [type(one).__name__ for one in request.inputs] == ["Series", "DataError", "Series"]
    answer = json.loads(write_response([made(), request.inputs[1], made()]))["predictions"]
    assert [sorted(one) for one in answer] == [["mean", "quantiles"], ["error"], ["mean", "quantiles"]]
    assert answer[1]["error"]["what"] == "instances[1] is no series"


def test_a_request_checks_dynamic_features_when_the_horizon_is_known() -> None:
    instance = INSTANCE | {"dynamic_feat": [[1, 2, 3, 4]]}
    assert not isinstance(read_request(body(instances=[instance]), horizon=1).inputs[0], DataError)
    assert isinstance(read_request(body(instances=[instance]), horizon=2).inputs[0], DataError)


def test_json_lines_take_their_configuration_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (json.dumps(INSTANCE) + "\n").encode() * 2
    monkeypatch.delenv(BATCH_VARIABLE, raising=False)
    request = read_request(lines, "application/jsonlines")
    assert request.lines
    assert len(request.inputs) == 2
    assert request.options["num_samples"] == 100
    assert request.options["quantiles"] == tuple(f"0.{digit}" for digit in range(1, 10))
    monkeypatch.setenv(BATCH_VARIABLE, '{"num_samples": 7}')
    assert read_request(lines, "application/jsonlines").options["num_samples"] == 7
    monkeypatch.setenv(BATCH_VARIABLE, "{")
    with pytest.raises(DataError, match=BATCH_VARIABLE):
        read_request(lines, "application/jsonlines")


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"{", "application/json", "no JSON"),
        (b"[]", "application/json", "no instances"),
        (b'{"instances": 3}', "application/json", "no instances"),
        (body({"samples": 3}), "application/json", "not understood"),
        (body({"num_samples": 0}), "application/json", "num_samples"),
        (body({"num_samples": True}), "application/json", "num_samples"),
        (body({"output_types": ["median"]}), "application/json", "output_types"),
        (body({"quantiles": ["0.5", "high"]}), "application/json", "quantiles"),
        (body({"quantiles": ["0", "1"]}), "application/json", "quantiles"),
        (body(), "text/csv", "content type"),
    ],
)
def test_bad_requests_are_answered_clearly(content: bytes, kind: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        read_request(content, kind)
    assert error.value.got is not None


def test_responses_hold_what_was_asked_for() -> None:
    forecast = made(quantiles=("0.5", "0.9"), output_types=("mean", "quantiles", "samples"))
    (answer,) = json.loads(respond(forecast))["predictions"]
    assert answer == {
        "quantiles": {"0.5": [6.0, 7.0, 8.0], "0.9": [9.0, 10.0, 11.0]},
        "samples": [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [6.0, 7.0, 8.0], [9.0, 10.0, 11.0]],
        "mean": [4.5, 5.5, 6.5],
    }
    assert json.loads(respond(made(output_types=("mean",))))["predictions"] == [{"mean": [4.5, 5.5, 6.5]}]


def test_json_lines_answer_line_by_line_in_order() -> None:
    text = write_response([made(output_types=("mean",)), made(output_types=("samples",))], "application/jsonlines")
    assert [sorted(json.loads(line)) for line in text.splitlines()] == [["mean"], ["samples"]]
    with pytest.raises(DataError, match="cannot be sent"):
        respond(made(), "image/png")
