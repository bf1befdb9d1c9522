"""Batch transform on files, with models that are plain functions."""

from __future__ import annotations

import gzip
import io
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lab.core.errors import ConfigError, DataError, LabError
from lab.data.records import MAGIC, frame
from lab.serve.transform.config import TransformConfig, recommended_assembly, recommended_split
from lab.serve.transform.run import FileResult, Reply, find_sources, transform
from lab.serve.transform.split import body_of, records_of, requests_of

LINES = "application/jsonlines"


class Model:
    """Keeps what it was asked; answers with `answer`."""

    def __init__(self, answer: Callable[[bytes], bytes], content_type: str = LINES) -> None:
        self._answer, self._content_type = answer, content_type
        self.bodies: list[bytes] = []
        self._lock = threading.Lock()

    def __call__(self, body: bytes) -> Reply:
        with self._lock:
            self.bodies.append(body)
        return Reply(self._answer(body), self._content_type)


def upper(body: bytes) -> bytes:
    return body.upper()


def sums(body: bytes) -> bytes:
    """The sum of each JSON line's numbers."""
    return b"\n".join(json.dumps(sum(json.loads(line))).encode() for line in body.split(b"\n") if line)


def run(
    tmp_path: Path, files: dict[str, bytes], call: Any, **options: Any
) -> tuple[list[FileResult], dict[str, bytes]]:
    """(results, outputs by relative path)."""
    folder, out = tmp_path / "in", tmp_path / "out"
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    pauses: list[float] = []
    results = list(transform(find_sources([folder]), out, TransformConfig(**options), call, pauses.append))
    return results, {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def test_whole_files_go_as_they_are(tmp_path: Path) -> None:
    model = Model(upper)
    results, outputs = run(tmp_path, {"a.bin": b"one\ntwo", "deep/b.bin": b""}, model)
    assert outputs == {"a.bin.out": b"ONE\nTWO", "deep/b.bin.out": b""}
    assert [(r.num_records, r.error) for r in results] == [(1, ""), (1, "")]
    assert model.bodies == [b"one\ntwo", b""]


@pytest.mark.parametrize(
    ("strategy", "bodies"), [("MultiRecord", [b"a\nb\nc\n"]), ("SingleRecord", [b"a", b"b", b"c"])]
)
def test_lines(tmp_path: Path, strategy: str, bodies: list[bytes]) -> None:
    model = Model(upper)
    options = {"content_type": LINES, "split_type": "Line", "batch_strategy": strategy, "assemble_with": "Line"}
    results, outputs = run(tmp_path, {"x": b"a\r\nb\n\nc"}, model, **options)
    assert model.bodies == bodies
    assert outputs == {"x.out": b"A\nB\nC\n"}
    assert results[0].num_records == 3


def test_assemble_with_nothing_is_a_plain_concatenation(tmp_path: Path) -> None:
    options = {"split_type": "Line", "batch_strategy": "SingleRecord"}
    assert run(tmp_path, {"x": b"a\nb\n"}, Model(upper), **options)[1] == {"x.out": b"AB"}


def test_recordio_keeps_its_framing(tmp_path: Path) -> None:
    model = Model(lambda body: b"%d;" % len(body))
    payloads = [b"one", b"", b"with" + MAGIC + b"inside"]
    content = b"".join(map(frame, payloads))
    options = {"content_type": "application/x-recordio-protobuf", "split_type": "RecordIO"}
    results, _ = run(tmp_path, {"x.rec": content}, model, **options)
    assert model.bodies == [content]
    assert results[0].num_records == 3
    model.bodies.clear()
    run(tmp_path, {"x.rec": content}, model, **options, batch_strategy="SingleRecord")
    assert model.bodies == [frame(payload) for payload in payloads]


def test_payloads_are_filled_up_to_the_limit() -> None:
    config = TransformConfig(split_type="Line", max_payload_mb=1)
    records = [b"x" * 300_000] * 7
    assert [len(group) for group in requests_of(records, config, "f")] == [3, 3, 1]
    assert all(len(body_of(group, "Line")) <= 2**20 for group in requests_of(records, config, "f"))
    unlimited = config.model_copy(update={"max_payload_mb": 0})
    assert [len(group) for group in requests_of(records, unlimited, "f")] == [7]
    with pytest.raises(DataError, match="record 2 of f is larger"):
        list(requests_of([b"", b"x" * 2**20], config, "f"))


@given(st.lists(st.binary(max_size=40), max_size=12), st.sampled_from(["MultiRecord", "SingleRecord"]))
def test_no_record_is_lost_or_split(payloads: list[bytes], strategy: str) -> None:
    config = TransformConfig(content_type="x", split_type="RecordIO", batch_strategy=strategy)
    records = list(records_of(io.BytesIO(b"".join(map(frame, payloads))), "f", "RecordIO"))
    assert records == payloads
    assert [record for group in requests_of(records, config, "f") for record in group] == payloads


def test_a_bad_record_costs_its_file_and_no_other(tmp_path: Path) -> None:
    def strict(body: bytes) -> bytes:
        if b"bad" in body:
            raise DataError("a request was refused", got="bad")
        return upper(body)

    model = Model(strict)
    options = {"split_type": "Line", "batch_strategy": "SingleRecord", "assemble_with": "Line"}
    files = {"1": b"a\nb", "2": b"a\nbad\nc", "3": b"d"}
    results, outputs = run(tmp_path, files, model, **options)
    assert outputs == {"1.out": b"A\nB\n", "3.out": b"D\n"}
    assert [bool(r.error) for r in results] == [False, True, False]
    assert "refused" in results[1].error
    assert results[1].output is None
    assert model.bodies.count(b"bad") == 1  # its own fault: not tried again


def test_an_earlier_output_survives_a_failure(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x.out").write_bytes(b"before")

    def broken(body: bytes) -> Reply:
        raise DataError("no")

    assert run(tmp_path, {"x": b"a"}, broken)[1] == {"x.out": b"before"}


@pytest.mark.parametrize(("num_failures", "succeeds"), [(0, True), (3, True), (4, False)])
@pytest.mark.parametrize("error", [LabError("later"), ConnectionError("gone")])
def test_failures_that_may_pass_are_tried_again(
    tmp_path: Path, num_failures: int, succeeds: bool, error: Exception
) -> None:
    calls = []

    def flaky(body: bytes) -> Reply:
        calls.append(body)
        if len(calls) <= num_failures:
            raise error
        return Reply(b"fine", LINES)

    pauses: list[float] = []
    source = tmp_path / "x"
    source.write_bytes(b"a")
    (result,) = transform([(source, Path("x"))], tmp_path / "out", TransformConfig(), flaky, pauses.append)
    assert bool(result.error) != succeeds
    assert len(calls) == min(num_failures, 3) + 1
    assert pauses == [0.5, 1.0, 2.0][:num_failures]
    if not succeeds:
        assert "failed 4 times" in result.error


def test_concurrent_requests_keep_the_order_and_their_number(tmp_path: Path) -> None:
    together = threading.Barrier(4, timeout=20)
    running, most, lock = 0, 0, threading.Lock()

    def slow(body: bytes) -> Reply:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait()  # passes only when four requests are in flight
        with lock:
            running -= 1
        return Reply(body, LINES)

    options = {"split_type": "Line", "batch_strategy": "SingleRecord", "assemble_with": "Line"}
    content = b"".join(b"%d\n" % n for n in range(40))
    _, outputs = run(tmp_path, {"x": content}, slow, **options, max_concurrent_transforms=4)
    assert outputs == {"x.out": content}
    assert most == 4


def test_gzip(tmp_path: Path) -> None:
    options = {"split_type": "Line", "assemble_with": "Line", "compression": "Gzip"}
    files = {"a.gz": gzip.compress(b"x\ny\n"), "b.gz": gzip.compress(b"x\ny\n" * 100)[:20], "c.gz": b"plain"}
    results, outputs = run(tmp_path, files, Model(upper), **options)
    assert outputs == {"a.gz.out": b"X\nY\n"}
    assert ["gzip" in r.error for r in results] == [False, True, True]


JSON_LINES = b'{"id": 1, "features": [1, 2]}\n{"id": 2, "features": [3, 4]}\n'


@pytest.mark.parametrize("strategy", ["MultiRecord", "SingleRecord"])
def test_json_lines_filtered_and_joined(tmp_path: Path, strategy: str) -> None:
    model = Model(sums)
    options = {"content_type": LINES, "split_type": "Line", "assemble_with": "Line", "batch_strategy": strategy}
    options |= {"input_filter": "$.features", "join_source": "Input", "output_filter": "$['id','SageMakerOutput']"}
    _, outputs = run(tmp_path, {"x": JSON_LINES}, model, **options)
    assert b"".join(model.bodies).replace(b"\n", b"") == b"[1, 2][3, 4]"
    assert outputs == {"x.out": b'{"id": 1, "SageMakerOutput": 3}\n{"id": 2, "SageMakerOutput": 7}\n'}


def test_a_joined_record_that_is_no_object_is_wrapped(tmp_path: Path) -> None:
    options = {"content_type": LINES, "split_type": "Line", "assemble_with": "Line", "join_source": "Input"}
    _, outputs = run(tmp_path, {"x": b"[1, 2]\n"}, Model(sums), **options)
    assert outputs == {"x.out": b'{"SageMakerInput": [1, 2], "SageMakerOutput": 3}\n'}


def test_a_whole_json_document_is_one_record(tmp_path: Path) -> None:
    model = Model(lambda body: b'{"score": 0.5}', "application/json")
    _, outputs = run(tmp_path, {"x.json": b'{"id": "a",\n "v": [1]}'}, model, input_filter="$.v", join_source="Input")
    assert model.bodies == [b"[1]"]
    assert json.loads(outputs["x.json.out"]) == {"id": "a", "v": [1], "SageMakerOutput": {"score": 0.5}}


def test_csv_columns_are_filtered_and_appended(tmp_path: Path) -> None:
    """The documentation's example: an id that the model does not get, beside its answer."""
    model = Model(lambda body: b"".join(b"0.5,up\n" for _ in body.split(b"\n") if _), "text/csv")
    options = {"content_type": "text/csv", "split_type": "Line", "assemble_with": "Line"}
    options |= {"input_filter": "$[1:]", "join_source": "Input", "output_filter": "$[0,-2:]"}
    _, outputs = run(tmp_path, {"x.csv": b'"a,1",1.50,2\nb,3,4\n'}, model, **options)
    assert model.bodies == [b"1.50,2\n3,4\n"]
    assert outputs == {"x.csv.out": b'"a,1",0.5,up\nb,0.5,up\n'}


def test_output_filter_alone(tmp_path: Path) -> None:
    model = Model(lambda body: b'{"label": "cat", "probabilities": [0.9, 0.1]}\n' * body.count(b"\n"))
    options = {
        "content_type": LINES,
        "split_type": "Line",
        "assemble_with": "Line",
        "output_filter": "$.probabilities[0]",
    }
    assert run(tmp_path, {"x": b"1\n2\n"}, model, **options)[1] == {"x.out": b"0.9\n0.9\n"}


@pytest.mark.parametrize(
    ("content", "answer", "message"),
    [
        (b"1\n2\n", b"3\n", "cannot be joined"),
        (b"{broken\n", b"3\n", "no JSON"),
        (b"1\n", b"not json\n", "no JSON"),
        (b"\xff\n", b"3\n", "no JSON"),
    ],
)
def test_what_cannot_be_joined_fails_its_file(tmp_path: Path, content: bytes, answer: bytes, message: str) -> None:
    options = {"content_type": LINES, "split_type": "Line", "join_source": "Input"}
    results, outputs = run(tmp_path, {"x": content}, Model(lambda body: answer), **options)
    assert outputs == {}
    assert message in results[0].error


@pytest.mark.parametrize(
    "bad",
    [
        {"batch_strategy": "SingleRecord"},
        {"max_payload_mb": 50, "max_concurrent_transforms": 3},
        {"max_payload_mb": 101},
        {"max_retries": 4},
        {"content_type": "image/png", "join_source": "Input"},
        {"content_type": "text/csv", "split_type": "RecordIO", "input_filter": "$[1:]"},
        {"split_type": "TFRecord"},
    ],
)
def test_options_that_do_not_fit_together(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TransformConfig(**bad)


def test_bad_filters_are_refused_before_any_request() -> None:
    with pytest.raises(ConfigError, match="filter"):
        TransformConfig(input_filter="$..x")


def test_recommended_options() -> None:
    kinds = ("text/csv; charset=utf-8", LINES, "application/x-recordio-protobuf", "application/json", "image/png")
    assert [recommended_split(kind) for kind in kinds] == ["Line", "Line", "RecordIO", "None", "None"]
    assert [recommended_assembly(kind) for kind in (LINES, "application/json", "")] == ["Line", "None", "None"]


def test_inputs_must_exist_and_outputs_differ(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such input"):
        find_sources([tmp_path / "absent"])
    with pytest.raises(DataError, match="no input file"):
        find_sources([tmp_path])
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x").write_bytes(b"1")
    sources = find_sources([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(ConfigError, match="same name"):
        list(transform(sources, tmp_path / "out", TransformConfig(), Model(upper)))
