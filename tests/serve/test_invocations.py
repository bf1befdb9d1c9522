"""Bodies of `/invocations`: each task's own formats on the way in and out."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lab.core.errors import DataError
from lab.core.signature import Signature, TensorSpec
from lab.serve.protocols.errors import MediaTypeError
from lab.serve.protocols.invocations import InvocationWork, codec_of
from lab.tasks import DEPLOY

JSON, LINES = "application/json", "application/jsonlines"


def model(task: str | None, signature: Signature | None = None) -> Any:
    """What decoding and encoding look at."""
    deploy = DEPLOY[task] if task else None
    config = SimpleNamespace(non_finite="refuse")
    return SimpleNamespace(manifest=SimpleNamespace(task=task), deploy=deploy, signature=signature, config=config)


@pytest.mark.parametrize(
    ("task", "reads"),
    [("classification", False), ("detection", False), ("segmentation", False), ("seq2seq", True), ("forecasting", True),
     (None, False)],
)  # fmt: skip
def test_sequence_tasks_read_requests_by_themselves(task: str | None, reads: bool) -> None:
    assert (codec_of(task) is not None) is reads


def translation(text: str) -> Any:
    from lab.tasks.seq2seq.responses import Answer, Translation

    answer = Answer(text, tuple(text.split()), np.arange(2), -1.0)
    return Translation("source", ("source",), (answer,), np.full((2, 1), 0.5, np.float32))


@pytest.mark.parametrize(
    ("kind", "accept", "body", "expected"),
    [
        (
            JSON,
            "",
            b'{"instances": [{"data": "a b"}, {"data": "c"}]}',
            {"predictions": [{"target": "x"}, {"target": "y"}]},
        ),
        (LINES, "*/*", b'{"source": "a b"}\n{"source": "c"}\n', [{"target": "x"}, {"target": "y"}]),
        (LINES, JSON, b'{"source": "a b"}\n{"source": "c"}\n', {"predictions": [{"target": "x"}, {"target": "y"}]}),
    ],
)
def test_sentences_are_answered_in_the_form_they_came_in(kind: str, accept: str, body: bytes, expected: Any) -> None:
    work, served = InvocationWork(body, kind, accept, 1), model("seq2seq")
    parsed = work.decode(served)
    assert list(parsed.inputs) == ["a b", "c"]
    answer = work.encode(served, parsed, [translation("x"), translation("y")], {})
    got = [json.loads(line) for line in answer.body.splitlines()]
    assert (got if isinstance(expected, list) else got[0]) == expected
    assert answer.content_type == (LINES if isinstance(expected, list) else JSON)


def test_a_series_that_cannot_be_read_keeps_its_place() -> None:
    from lab.tasks.forecasting.responses import Forecast

    good = {"start": "2024-01-01 00:00:00", "target": [1.0, 2.0, 3.0]}
    document = {"instances": [good, {"start": "never", "target": [1]}, good], "configuration": {"num_samples": 7}}
    work, served = InvocationWork(json.dumps(document).encode(), JSON, "", 1), model("forecasting")
    parsed = work.decode(served)
    assert parsed.num_inputs == 2
    assert parsed.options["num_samples"] == 7
    assert parsed.key is None  # options of its own: it runs alone
    forecast = Forecast("", np.datetime64("2024-01-04"), "D", np.ones((3, 2), np.float32))
    answers = json.loads(work.encode(served, parsed, [forecast, forecast], {}).body)["predictions"]
    assert ["error" in answer for answer in answers] == [False, True, False]
    assert answers[0]["mean"] == [1.0, 1.0]


PAIR = Signature(
    (TensorSpec("a", "float32", ("batch", 2)), TensorSpec("b", "int64", ("batch",))),
    (TensorSpec("y", "float32", ("batch",)),),
)


@pytest.mark.parametrize(
    "document",
    [
        {"instances": [{"a": [1, 2], "b": 3}, {"a": [4, 5], "b": 6}]},
        {"inputs": {"a": [[1, 2], [4, 5]], "b": [3, 6]}},
    ],
)
def test_several_inputs_in_json(document: Any) -> None:
    feed = InvocationWork(json.dumps(document).encode(), JSON, "", 1).decode(model(None, PAIR)).feed
    assert feed is not None
    assert feed["a"].tolist() == [[1, 2], [4, 5]]
    assert feed["b"].tolist() == [3, 6]
    assert (feed["a"].dtype, feed["b"].dtype) == (np.float32, np.int64)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"instances": [{"a": [1, 2]}]}, "lacks an input"),
        ({"instances": [[1, 2]]}, "several inputs"),
        ({"inputs": {"a": [[1, 2]], "c": [3]}}, "an input is unknown"),
        ({"inputs": {"a": [[1, 2]], "b": [1.5]}}, "does not hold int64"),
        ({"inputs": {"a": [[1, 2]], "b": [True, False]}}, "wrong shape"),
        ({"inputs": {"a": [[1, 2]], "b": [2**70]}}, "does not hold int64"),
    ],
)
def test_json_that_does_not_fit(document: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        InvocationWork(json.dumps(document).encode(), JSON, "", 1).decode(model(None, PAIR))


def test_an_image_for_a_model_that_takes_none() -> None:
    with pytest.raises(MediaTypeError, match="takes no images"):
        InvocationWork(b"\xff\xd8\xff", "image/jpeg", "", 1).decode(model(None, PAIR))


def test_options_of_the_response_alone_do_not_keep_requests_apart() -> None:
    served = model("seq2seq")
    plain = {"instances": [{"data": "a"}]}
    matrix = {"instances": [{"data": "a", "configuration": {"attention_matrix": True}}]}
    keys = [InvocationWork(json.dumps(d).encode(), JSON, "", 1).decode(served).key for d in (plain, matrix)]
    assert keys == ["task", "task"]
