"""What comes in to and goes out of an endpoint (S2S-I6 .. S2S-I9), and the record that people read.

    application/json                 {"instances": [{"data": "a source text"}]} -> {"predictions": [{"target": ...}]}
    application/jsonlines            {"source": ...} -> {"target": ...}, a line each
    application/x-recordio-protobuf  records with "source", numbers of tokens -> records with "target"

Shape letters: S source tokens, T target tokens.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lab.core.errors import DataError
from lab.data.aialgs import encode_record
from lab.data.records import frame
from lab.data.text.recordio import TARGET, read_numbers

Source = str | np.ndarray
"""A text, or the numbers of its tokens, int64 [S]."""
JSON, LINES, PROTOBUF = "application/json", "application/jsonlines", "application/x-recordio-protobuf"
ACCEPTS = (JSON, LINES, PROTOBUF)
"""Content types of responses, the first as default; those of requests are the same."""
_DECIMALS = 6


@dataclass(frozen=True)
class Answer:
    """One output: its text, its tokens and their numbers int64 [T], and its score, log p over the length penalty."""

    text: str
    tokens: tuple[str, ...]
    numbers: np.ndarray
    score: float


@dataclass(frozen=True)
class Translation:
    """The outputs found for one source, best first; `attention_TS` float32 is of the best one, </s> left out.

    `notes` say what was done to the source: unknown tokens, cut off.
    """

    source: str
    source_tokens: tuple[str, ...]
    answers: tuple[Answer, ...]
    attention_TS: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> Answer:
        return self.answers[0] if self.answers else Answer("", (), np.zeros(0, np.int64), -np.inf)


@dataclass(frozen=True)
class Request:
    """Sources, and {"attention": whether each one's matrix is wanted}."""

    inputs: tuple[Source, ...]
    options: dict[str, Any] = field(default_factory=dict)


def to_record(prediction: Translation, labels: Sequence[str]) -> dict[str, Any]:
    """What `lab predict` prints of one source; the attention matrix has target tokens as rows."""
    return {
        "source": prediction.source,
        "target": prediction.best.text,
        "score": round(prediction.best.score, _DECIMALS),
        "answers": [{"target": answer.text, "score": round(answer.score, _DECIMALS)} for answer in prediction.answers],
        "source_tokens": list(prediction.source_tokens),
        "target_tokens": list(prediction.best.tokens),
        "attention": np.round(prediction.attention_TS.astype(float), _DECIMALS).tolist(),
        "notes": list(prediction.notes),
    }


def read_request(body: bytes, content_type: str) -> Request:
    """The sources of a request's body.

    Raises:
        DataError: a content type that is not understood, a malformed body, or no source in it.
    """
    kind = content_type.partition(";")[0].strip()
    if kind == PROTOBUF:
        request = Request(tuple(source for source, _ in read_numbers(io.BytesIO(body), "the request")))
    elif kind == JSON:
        request = _instances(_parsed(body, "the request"))
    elif kind == LINES:
        lines = [line for line in body.split(b"\n") if line.strip()]
        request = Request(tuple(source_of_line(line, f"line {number}") for number, line in enumerate(lines, 1)))
    else:
        raise DataError(
            "the request is of a type that is not understood", got=content_type, expected=", ".join(ACCEPTS)
        )
    if not request.inputs:
        raise DataError("the request has no source", expected="at least one")
    return request


def source_of_line(line: str | bytes, name: str) -> str:
    """The text in {"source": text}. Raises DataError naming the line."""
    return _text(_parsed(line, name), "source", name)


def _instances(document: Any) -> Request:
    instances = document.get("instances") if isinstance(document, Mapping) else None
    if not isinstance(instances, list):
        raise DataError("the request has no instances", expected='{"instances": [{"data": "you are so good !"}]}')
    texts = tuple(_text(instance, "data", f"instance {number}") for number, instance in enumerate(instances, 1))
    return Request(texts, {"attention": [_wants_attention(instance) for instance in instances]})


def _wants_attention(instance: Mapping[str, Any]) -> bool:
    configuration = instance.get("configuration", {})
    # The documentation has a boolean, Amazon's own notebook the text "true" (S2S-I7).
    return isinstance(configuration, Mapping) and str(configuration.get("attention_matrix", False)).lower() == "true"


def _parsed(text: str | bytes, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is not JSON", got=f"{text[:60]!r} ({error})") from error


def _text(document: Any, key: str, name: str) -> str:
    if not isinstance(document, Mapping) or not isinstance(document.get(key), str):
        raise DataError(f"{name} is not understood", got=repr(document)[:80], expected=f'{{"{key}": "a text"}}')
    if not document[key].strip():
        raise DataError(f"{name} is empty", got=repr(document[key]), expected="at least one token")
    try:
        document[key].encode()
    except UnicodeEncodeError as error:  # JSON can write half of a surrogate pair, which is no character
        raise DataError(f"{name} is no Unicode text", got=str(error)[:100]) from error
    return str(document[key])


def write_response(
    predictions: Sequence[Translation], accept: str = JSON, options: Mapping[str, Any] | None = None
) -> bytes:
    """The body for all sources of a request, with its `options` (S2S-I6 .. S2S-I9).

    Raises:
        DataError: a content type that is not offered.
    """
    kind = accept.partition(";")[0].strip()
    if kind == JSON:
        wanted = (options or {}).get("attention") or [False] * len(predictions)
        rows = [_prediction(item, matrix) for item, matrix in zip(predictions, wanted, strict=True)]
        return json.dumps({"predictions": rows}, ensure_ascii=False).encode()
    if kind == LINES:
        return b"".join(
            json.dumps({"target": item.best.text}, ensure_ascii=False).encode() + b"\n" for item in predictions
        )
    if kind == PROTOBUF:
        return b"".join(frame(encode_record({TARGET: item.best.numbers})) for item in predictions)
    raise DataError("the response cannot be sent in that form", got=accept, expected=", ".join(ACCEPTS))


def _prediction(item: Translation, matrix: bool) -> dict[str, Any]:
    prediction: dict[str, Any] = {"target": item.best.text}
    if matrix:
        prediction["matrix"] = np.round(item.attention_TS.astype(float), _DECIMALS).tolist()
    if item.notes:
        prediction["notes"] = list(item.notes)
    return prediction


def respond(prediction: Translation, accept: str = JSON) -> bytes:
    """The response for one source, with the attention matrix. Raises DataError."""
    return write_response([prediction], accept, {"attention": [True]})
