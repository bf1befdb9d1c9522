"""A short version of `make fuzz`, and inputs that once ended in something else than an answer or the lab's errors."""

from __future__ import annotations

import io
import json
import random
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.fuzzing import limits
from benchmarks.fuzzing.engines import Run, plain
from benchmarks.fuzzing.files import add_member, bomb_zip, tar_file
from benchmarks.fuzzing.limits import BreachError, Target, check
from benchmarks.fuzzing.mutate import mutate
from benchmarks.fuzzing.requests import framed, manifests
from benchmarks.fuzzing.targets import TARGETS
from lab.artifacts.golden import GOLDEN_NAME, MAX_BYTES, read_golden
from lab.core.errors import ArtifactError, DataError
from lab.data.archives import extract
from lab.serve.control_fields import check_fields
from lab.serve.control_records import ControlError
from lab.serve.transform.split import records_of

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow warns of images that are odd, and these are
NUM_INPUTS = 150
DEEP = b"[" * 3000 + b"]" * 3000


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_inputs_end_as_documented(name: str, tmp_path: Path) -> None:
    run = Run(TARGETS[name], tmp_path)
    plain(run, random.Random(0), lambda: run.executions < NUM_INPUTS)
    found = [path.read_text() for path in (tmp_path / "findings").glob("*.json")] if run.signatures else []
    assert not found
    assert run.executions == NUM_INPUTS
    assert run.endings["answered"] > 0  # the seeds are good ones


def manifest(**changes: Any) -> bytes:
    return json.dumps(manifests()["images"].to_dict() | changes).encode()


def zip_file(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("x"), b"content")
    return buffer.getvalue().replace(b"x", b"\0", 2) if not name else buffer.getvalue()


def operation(name: str, **given: Any) -> bytes:
    return f"{name} {json.dumps(given)}".encode()


SERIES = {
    "start": "2020-01-01",
    "target": [1.0, 2.0],
    "cat": [1],
    "feat_static_real": [0.5],
    "dynamic_feat": [[0.0] * 8],
}
JSON, LINES = "application/json", "application/jsonlines"


def series(configuration: Any = None, **changes: Any) -> bytes:
    document = {"instances": [SERIES | changes], "configuration": configuration or {}}
    return framed(json.dumps(document).encode(), content_type=JSON)


# ruff: noqa: E501  a row of the table is a line
FOUND = [
    ("oip", framed(json.dumps({"inputs": [{"name": [], "datatype": "FP32", "shape": [1], "data": [0]}]}).encode()), "DataError"),
    ("seq2seq", framed(b'{"instances": [{"data": "\\ud800"}]}', content_type=JSON), "DataError"),
    ("forecasting", framed(b'{"instances": ' + DEEP + b"}", content_type=JSON), "DataError"),
    ("forecasting", framed(DEEP, content_type=LINES), "DataError"),
    ("forecasting", series({"output_types": 5}), "DataError"),
    ("forecasting", series({"output_types": [["mean"]]}), "DataError"),
    ("forecasting", series(target=[10**400]), "DataError"),
    ("forecasting", series(dynamic_feat=7), "DataError"),
    ("forecasting", series(start="2020-01-01T00:00Z"), "DataError"),
    ("manifest", DEEP, "ArtifactError"),
    ("manifest", manifest(files=0.5), "ArtifactError"),
    ("manifest", manifest(files={"\0": {"sha256": "0"}}), "IntegrityError"),
    ("manifest", manifest(files={"x" * 300: {"sha256": "0"}}), "IntegrityError"),
    ("manifest", manifest(files={"a": {}}), "ArtifactError"),
    ("manifest", manifest(functions=3), "ArtifactError"),
    ("manifest", manifest(versions=3), "ArtifactError"),
    ("manifest", manifest(task=0.5), "ArtifactError"),
    ("manifest", manifest(task=["classification"]), "ArtifactError"),
    ("manifest", manifest(task="none"), "ConfigError"),
    ("manifest", manifest(signature={"inputs": [{"name": "x", "dtype": "object", "shape": [1]}], "outputs": []}), "ArtifactError"),
    ("manifest", manifest(signature={"inputs": [{"name": "x", "dtype": "float32", "shape": [-1]}], "outputs": []}), "ArtifactError"),
    ("manifest", manifest(signature={"inputs": [{"name": "x", "dtype": ",float32", "shape": [1]}], "outputs": []}), "ArtifactError"),
    ("registered", DEEP, "ArtifactError"),
    ("golden", b"", "ArtifactError"),
    ("golden", b"PK\x05\x06" + bytes(18), "ArtifactError"),
    ("archive", zip_file(""), "DataError"),
    ("archive", tar_file(lambda archive: add_member(archive, ".")), "DataError"),
    ("configuration", b"? [a]\n: 1\nendpoint: x\n", "ConfigError"),
    ("configuration", b"endpoint: 2020-13-45\n", "ConfigError"),
    ("configuration", b"endpoint: &a [*a]\n", "ConfigError"),
    ("configuration", b"endpoint: " + DEEP, "ConfigError"),
    ("transform", framed(DEEP, split_type="Line", input_filter="$.a"), "DataError"),
    ("transform", framed(b'{"a": "\\ud800"}', split_type="Line", input_filter="$.a"), "answered"),
    ("control-plane", operation("ListEndpoints", NextToken=[1]), "answered"),
    ("control-plane", operation("ListEndpoints", NextToken="Name", NameContains=0.5), "answered"),
    ("control-plane", operation("ListEndpoints", NameContains=0.5, MaxResults="x"), "answered"),
    ("control-plane", operation("CreateEndpointConfig", EndpointConfigName="c", ProductionVariants=[[]]), "answered"),
    ("control-plane", operation("CreateModel", ModelName="m", PrimaryContainer={"ModelDataUrl": "x" * 300}), "answered"),
    ("control-plane", operation("CreateModel", ModelName="m", PrimaryContainer={"ModelDataUrl": "a\0b"}), "answered"),
    ("control-plane", operation("CreateModel", ModelName="m", PrimaryContainer={"ModelDataUrl": "http://[x"}), "answered"),
    ("paths", framed(b'{"one": "much"}', request="POST /endpoints/shop/weights", content_type=JSON), "answered"),
    ("paths", framed(json.dumps({"variant": "two", "model": "x" * 300}).encode(), request="POST /endpoints/shop/reload", content_type=JSON), "answered"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "data", "ending"), FOUND, ids=[f"{row[0]}-{n}" for n, row in enumerate(FOUND)])
def test_what_fuzzing_found_stays_fixed(name: str, data: bytes, ending: str) -> None:
    assert check(TARGETS[name], data) == ending


def test_the_property_itself_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    peak = [100 << 20]
    monkeypatch.setattr(limits, "_peak_bytes", lambda: peak[0])

    def run(data: bytes) -> None:
        if data == b"memory":
            peak[0] += 600 << 20
        if data == b"error":
            raise KeyError(data)
        raise DataError("as documented")

    target = Target("t", "", lambda: [], run)
    assert check(target, b"") == "DataError"
    with pytest.raises(KeyError):
        check(target, b"error")
    with pytest.raises(BreachError, match="took 600 MiB of memory"):
        check(target, b"memory")


def test_mutations_are_those_of_their_seed() -> None:
    seed = TARGETS["oip"].seeds()[0]
    first, again = ([mutate(seed, random.Random(number)) for number in range(50)] for _ in range(2))
    assert first == again
    assert len(set(first)) > 40


def test_a_damaged_golden_sample_raises_nothing_else(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{"input.x": np.zeros(100), "tolerance": np.asarray(1.0)})
    good = buffer.getvalue()
    for at in range(0, len(good), 7):
        (tmp_path / GOLDEN_NAME).write_bytes(good[:at] + bytes([good[at] ^ 0x55]) + good[at + 1 :])
        with suppress(ArtifactError):
            assert read_golden(tmp_path) is not None


def test_a_golden_sample_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / GOLDEN_NAME, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("input.x.npy", "w") as member,
    ):
        for _ in range(MAX_BYTES // (4 << 20) + 1):
            member.write(bytes(4 << 20))
    assert (tmp_path / GOLDEN_NAME).stat().st_size < 1 << 20
    with pytest.raises(ArtifactError, match="too large"):
        read_golden(tmp_path)


def test_a_zip_bomb_is_stopped_on_its_way(tmp_path: Path) -> None:
    (tmp_path / "bomb.zip").write_bytes(bomb_zip(32))
    with pytest.raises(DataError, match="times the archive's size"):
        extract(tmp_path / "bomb.zip", tmp_path / "out", min_bytes=4 << 20)
    assert (tmp_path / "out" / "zeros").stat().st_size <= (4 << 20) + 200 * (tmp_path / "bomb.zip").stat().st_size
    extract(tmp_path / "bomb.zip", tmp_path / "allowed")
    assert (tmp_path / "allowed" / "zeros").stat().st_size == 32 << 20


def test_a_record_without_an_end_is_not_read_to_it() -> None:
    class Endless(io.RawIOBase):
        given = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            self.given += len(buffer)
            assert self.given < 10_000_000
            buffer[:] = b"x" * len(buffer)
            return len(buffer)

    for split in ("Line", "None"):
        with pytest.raises(DataError, match="larger than a request may be"):
            list(records_of(io.BufferedReader(Endless()), "endless", split, 1000))  # type: ignore[arg-type]


def test_aliases_of_aliases_are_counted() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert check(TARGETS["configuration"], "\n".join([*lines, "endpoint: x"]).encode()) == "ConfigError"


def test_numbers_beyond_the_networks_are_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check(TARGETS["forecasting"], series(target=[1e308])) == "DataError"
        assert check(TARGETS["forecasting"], series(feat_static_real=[-1e39])) == "DataError"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ModelName": 5}, "ModelName must be a text, got '5'"),
        ({"Containers": {}}, "Containers must be a list"),
        ({"ProductionVariants": [{"InitialInstanceCount": True}]}, r"ProductionVariants\[0\].InitialInstanceCount must be an integer"),
        ({"ProductionVariants": [{"InitialVariantWeight": float("nan")}]}, "InitialVariantWeight must be a number"),
        ({"PrimaryContainer": {"Environment": {"LAB_MAX_BATCH": 4}}}, "PrimaryContainer.Environment must be an object of texts"),
        ({"DeploymentConfig": {"AutoRollbackConfiguration": {"Alarms": ["a"]}}}, r"Alarms\[0\] must be an object"),
    ],
)  # fmt: skip
def test_the_control_plane_says_which_field_is_of_another_type(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ControlError, match=message):
        check_fields(given)
    assert check_fields({"NameContains": None, "Tags": 5, "MaxResults": 3}) == {"Tags": 5, "MaxResults": 3}
