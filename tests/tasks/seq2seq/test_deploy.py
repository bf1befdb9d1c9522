"""The deployed half: preprocessing, requests and responses of SageMaker's forms, files, and bad input."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab.core.errors import ArtifactError, DataError
from lab.data.text.recordio import frame_numbers, read_numbers
from lab.data.text.tokenizers import Tokenizer
from lab.data.text.vocabulary import SPECIALS
from lab.tasks.seq2seq import deploy
from lab.tasks.seq2seq.responses import JSON, LINES, PROTOBUF, Translation

SOURCE, LABELS = (*SPECIALS, "you", "are", "good", "!"), (*SPECIALS, "du", "bist", "gut", "!")
WORD: dict[str, Any] = Tokenizer("word").to_dict()
PREPROCESSING = json.loads(json.dumps(deploy.Preprocessing(WORD, WORD, SOURCE, 4, 10).to_dict()))


def test_texts_become_padded_numbers_that_end() -> None:
    found = deploy.preprocess(["you are", "good !  you are fine", np.asarray([2, 4, 1, 6, 3, 5])], PREPROCESSING)
    assert found["source"].tolist() == [[4, 5, 3, 0, 0], [6, 7, 4, 5, 3], [4, 1, 6, 3, 0]]
    assert found["source_lengths"].tolist() == [3, 5, 4]
    assert deploy.signature().check_inputs(found) == {"batch": 3, "source_length": 5}


@pytest.mark.parametrize("source", ["", "   \t ", np.zeros(0, np.int64), np.asarray([3])])
def test_an_empty_source_is_named(source: Any) -> None:
    with pytest.raises(DataError, match="source 2 is empty"):
        deploy.preprocess(["you", source], PREPROCESSING)


def test_numbers_that_are_no_tokens_are_named() -> None:
    with pytest.raises(DataError, match="source 1 has a number that is no token"):
        deploy.preprocess([np.asarray([4, 8])], PREPROCESSING)


def test_a_strange_manifest_is_an_artifact_error() -> None:
    with pytest.raises(ArtifactError, match="not understood"):
        deploy.preprocess(["you"], PREPROCESSING | {"size": 3})
    with pytest.raises(ArtifactError, match="tokenizer is not understood"):
        deploy.preprocess(["you"], PREPROCESSING | {"source": {"cut": "word"}})


def outputs(num_sources: int = 1) -> dict[str, np.ndarray]:
    tokens = np.asarray([[[4, 5, 6, 3], [4, 6, 3, 0]]] * num_sources)
    scores = np.asarray([[-0.5, -1.25]] * num_sources, np.float32)
    return {"tokens": tokens, "scores": scores, "attention": np.full((num_sources, 4, 5), 0.25, np.float32)}


def translation(source: Any = "you are good !") -> Translation:
    found: Translation = deploy.postprocess(outputs(), LABELS, [source], PREPROCESSING)[0]
    return found


def test_outputs_become_texts_best_first() -> None:
    found = translation()
    assert [(answer.text, answer.score) for answer in found.answers] == [("du bist gut", -0.5), ("du gut", -1.25)]
    assert found.attention_TS.shape == (3, 4)
    assert found.notes == ()
    record = deploy.to_record(found, LABELS)
    assert json.loads(json.dumps(record))["target"] == "du bist gut"
    assert np.asarray(record["attention"]).shape == (len(record["target_tokens"]), len(record["source_tokens"]))


def test_unknown_tokens_and_cut_sources_are_said() -> None:
    found = translation("you is good ? are !")
    assert found.source_tokens == ("you", "is", "good", "?")
    assert found.notes == ("tokens that are not in the vocabulary: is ?", "cut off: 4 of 6 tokens were read")


def test_outputs_and_inputs_must_agree() -> None:
    with pytest.raises(DataError, match="differ in number"):
        deploy.postprocess(outputs(2), LABELS, ["you"], PREPROCESSING)


def test_json_is_that_of_sagemaker() -> None:
    """S2S-I6, S2S-I7: the flag is a boolean in the documentation and a text in the notebook."""
    instances = [
        {"data": "you are"},
        {"data": "you are good !", "configuration": {"attention_matrix": "true"}},
        {"data": "good", "configuration": {"attention_matrix": True}},
        {"data": "good", "configuration": {"attention_matrix": "false"}},
    ]
    request = deploy.read_request(json.dumps({"instances": instances}).encode(), "application/json; charset=utf-8")
    assert request.inputs == ("you are", "you are good !", "good", "good")
    body = json.loads(deploy.write_response([translation(text) for text in request.inputs], JSON, request.options))
    assert [sorted(row) for row in body["predictions"]] == [
        ["target"],
        ["matrix", "target"],
        ["matrix", "target"],
        ["target"],
    ]
    assert body["predictions"][0] == {"target": "du bist gut"}
    assert np.asarray(body["predictions"][1]["matrix"]).shape == (3, 4)


def test_json_lines_are_those_of_batch_transform() -> None:
    """S2S-I9."""
    request = deploy.read_request('{"source": "you"}\n\n{"source": "gut, Öl"}\n'.encode(), LINES)
    assert request.inputs == ("you", "gut, Öl")
    assert deploy.write_response([translation()] * 2, LINES) == b'{"target": "du bist gut"}\n' * 2


def test_protobuf_there_and_back() -> None:
    """S2S-I8: numbers in, numbers out."""
    request = deploy.read_request(frame_numbers([4, 5], []) + frame_numbers([6], []), PROTOBUF)
    assert [source.tolist() for source in request.inputs if isinstance(source, np.ndarray)] == [[4, 5], [6]]
    body = deploy.write_response([translation(source) for source in request.inputs], PROTOBUF)
    with pytest.raises(DataError, match="no source"):
        list(read_numbers(io.BytesIO(body), "answer"))  # an answer has a target alone
    assert body.count(b"target") == 2
    assert body.endswith(b"\x04\x05\x06" + bytes(-len(body) % 4)) or b"\x04\x05\x06" in body


@pytest.mark.parametrize(
    ("body", "kind", "problem"),
    [
        (b"{", JSON, "is not JSON"),
        (b"[]", JSON, "has no instances"),
        (b'{"instances": []}', JSON, "has no source"),
        (b'{"instances": [{"text": "x"}]}', JSON, "instance 1 is not understood"),
        (b'{"instances": [{"data": "x"}, {"data": " "}]}', JSON, "instance 2 is empty"),
        (b'{"source": "x"}\n{"source": 3}', LINES, "line 2 is not understood"),
        (b"not records", PROTOBUF, "damaged or truncated"),
        (b"x", "text/csv", "type that is not understood"),
    ],
)
def test_bad_requests_are_answered_clearly(body: bytes, kind: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        deploy.read_request(body, kind)


def test_an_unknown_accept_type_lists_those_there_are() -> None:
    with pytest.raises(DataError, match="application/jsonlines"):
        deploy.respond(translation(), "image/png")
    assert json.loads(deploy.respond(translation()))["predictions"][0]["matrix"]


def test_files_hold_a_source_per_line_and_bad_lines_stay_in_place(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("you are\n\ngood\n")
    (tmp_path / "a.tsv").write_text("you\tdu\ngood\n")
    (tmp_path / "a.jsonl").write_text('{"source": "you"}\nno\n{"source": "good"}\n')
    (tmp_path / "a.rec").write_bytes(frame_numbers([4], []))
    text, lines = deploy.load_inputs(tmp_path / "a.txt"), deploy.load_inputs(tmp_path / "a.jsonl")
    assert (text[0], text[2], lines[0], lines[2]) == ("you are", "good", "you", "good")
    assert "a.txt:2 is empty" in str(text[1])
    assert isinstance(lines[1], DataError)
    assert deploy.load_inputs(tmp_path / "a.tsv") == ["you", "good"]
    assert np.array_equal(deploy.load_inputs(tmp_path / "a.rec")[0], [4])
    (tmp_path / "none.txt").write_text("")
    with pytest.raises(DataError, match="is empty"):
        deploy.load_inputs(tmp_path / "none.txt")


def test_engines_agree_when_the_best_outputs_do() -> None:
    first, second = outputs(2), outputs(2)
    second["tokens"] = np.pad(second["tokens"], ((0, 0), (0, 0), (0, 1)))
    second["attention"] = np.pad(second["attention"], ((0, 0), (0, 1), (0, 0)))
    second["tokens"][1, 0, 1] = 6
    assert deploy.agreement(first, second) == 0.5
    left, right = deploy.aligned(first, second)
    assert all(np.array_equal(left[name], right[name]) for name in left)
    assert left["tokens"][0].any()
    assert not left["tokens"][1].any()


def test_the_picture_is_as_large_as_its_matrix() -> None:
    picture = deploy.draw("you are good !", translation(), LABELS)
    assert picture.dtype == np.uint8
    assert picture.shape[0] > 3 * 24
    assert picture.shape[1] > 4 * 24
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 2
