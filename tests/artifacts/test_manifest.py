from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lab.artifacts.manifest import Entry, Manifest, Rung, TargetInfo
from lab.core.errors import ArtifactError, IntegrityError
from lab.core.signature import Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", "float32", ("batch", 3)),), (TensorSpec("y", "float32", ("batch", 5)),))
FULL = Manifest(
    kind="bundle",
    name="m",
    task="classification",
    signature=SIGNATURE,
    parents={"model.onnx": "ab"},
    preprocessing={"mean": [0.5]},
    labels=("a", "b"),
    target=TargetInfo("x86", "x86", "x86_64", mcpu="znver4", required_features=("avx2", "fma"), num_threads=2),
    entries=(Entry("model_b1.so", 1),),
    metrics={"train": {"accuracy": 0.5}},
    parity=(Rung("tvm", "onnxruntime", "passed", 7, 1e-6, 1e-7, 1e-4, 1.0),),
    options={"batch_sizes": [1]},
    versions={"python": "3"},
    durations_s={"compile": 1.5},
    created="2026-01-01T00:00:00Z",
)


def saved(folder: Path) -> Manifest:
    (folder / "model_b1.so").write_bytes(b"\x00\x01\x02")
    manifest = FULL.with_files(folder, ["model_b1.so"])
    manifest.save(folder)
    return manifest


def test_round_trip(tmp_path: Path) -> None:
    assert Manifest.load(saved(tmp_path) and tmp_path) == FULL.with_files(tmp_path, ["model_b1.so"])


def test_one_flipped_byte_is_refused_by_name(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "model_b1.so").write_bytes(b"\x00\x01\x03")
    with pytest.raises(IntegrityError, match=r"model_b1\.so is not the file") as caught:
        Manifest.load(tmp_path)
    assert str(caught.value.got) != str(caught.value.expected)


def test_missing_file_and_file_outside_are_refused(tmp_path: Path) -> None:
    manifest = saved(tmp_path)
    (tmp_path / "model_b1.so").unlink()
    with pytest.raises(IntegrityError, match="missing"):
        Manifest.load(tmp_path)
    replace(manifest, files={"../x": {"sha256": "", "size_bytes": 0}}).save(tmp_path)
    with pytest.raises(IntegrityError, match="outside"):
        Manifest.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 99}, "another schema version"),
        ({"signature": {}}, "incomplete or damaged"),
        ({"surprise": 1}, "incomplete or damaged"),
        ({"parity": [{"bad": 1}]}, "incomplete or damaged"),
    ],
)
def test_damaged_manifest_is_an_artifact_error(tmp_path: Path, change: dict[str, object], message: str) -> None:
    saved(tmp_path)
    data = json.loads((tmp_path / "manifest.json").read_text()) | change
    (tmp_path / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(ArtifactError, match=message):
        Manifest.load(tmp_path)


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"manifest\.json is missing"):
        Manifest.load(tmp_path)
