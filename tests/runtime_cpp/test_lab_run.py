"""lab_run on whole bundles, natively: the same numbers as ONNX Runtime, and a clear refusal of everything broken."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lab.core import host
from lab.core.errors import ArtifactError, DataError, IncompatibleError, IntegrityError, LabError
from lab.core.interfaces import Runner
from lab.runtime.edge import EmulatedRunner, run_bundle
from lab.runtime.edge_build import build_runner
from tests.runtime_cpp.conftest import CLASSES, edit_manifest, images

TOLERANCE = 1e-5
OTHER_ARCH = "x86_64" if host.cpu_arch() == "aarch64" else "aarch64"


@pytest.fixture(scope="session")
def lab_run() -> Path:
    return build_runner(host.cpu_arch())  # type: ignore[arg-type]


def call(lab_run: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([lab_run, *map(str, arguments)], capture_output=True, text=True, check=False)


# 1 and 3 are compiled; 2 pads or splits; 7 does both.
@pytest.mark.parametrize("num_samples", [1, 2, 3, 7])
def test_any_number_of_samples_equals_onnx_runtime(
    host_bundle: Path, reference: Callable[[np.ndarray], np.ndarray], num_samples: int
) -> None:
    array = images(num_samples)
    logits = run_bundle(host_bundle, {"image": array})["logits"]
    assert (logits.dtype, logits.shape) == (np.float32, (num_samples, CLASSES))
    np.testing.assert_allclose(logits, reference(array), atol=TOLERANCE, rtol=0)


def test_padding_does_not_reach_the_outputs(host_bundle: Path, reference: Callable[[np.ndarray], np.ndarray]) -> None:
    edit_manifest(host_bundle, lambda data: data.update(entries=data["entries"][1:]))  # batch 3 only
    array = images(4)
    np.testing.assert_allclose(run_bundle(host_bundle, {"image": array})["logits"], reference(array), atol=TOLERANCE)


def test_emulated_runner_is_a_runner(host_bundle: Path, reference: Callable[[np.ndarray], np.ndarray]) -> None:
    runner = EmulatedRunner(host_bundle)
    assert isinstance(runner, Runner)
    assert runner.name in ("tvm-x86-edge", "tvm-arm-edge")
    np.testing.assert_allclose(runner.run({"image": images(2)})["logits"], reference(images(2)), atol=TOLERANCE)
    runner.close()
    with pytest.raises(DataError, match="input names"):
        runner.run({"picture": images(1)})


def test_runner_and_libraries_are_small(lab_run: Path) -> None:
    sizes = {path.name: path.stat().st_size for path in lab_run.parent.iterdir()}
    assert set(sizes) == {"lab_run", "liblab.so", "lab.h", "libtvm_runtime.so", "libtvm_ffi.so"}
    assert sum(sizes.values()) < 10e6


def test_built_once(lab_run: Path) -> None:
    before = lab_run.stat().st_mtime_ns
    assert build_runner(host.cpu_arch()).stat().st_mtime_ns == before  # type: ignore[arg-type]


def test_time_prints_percentiles_of_the_chosen_batch(lab_run: Path, host_bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", images(3))
    done = call(
        lab_run, host_bundle, "--input", f"image={tmp_path}/in.npy", "--output-dir", tmp_path / "out",
        "--time", 20, "--batch", 1, "--threads", 1,
    )  # fmt: skip
    measured = json.loads(done.stdout)
    assert (measured["num_calls"], measured["batch_size"], measured["num_threads"]) == (20, 1, 1)
    assert 0 < measured["p50_ms"] <= measured["p95_ms"] < 1000
    assert np.load(tmp_path / "out" / "logits.npy").shape == (3, CLASSES)


def test_flipped_byte_is_refused(host_bundle: Path) -> None:
    library = host_bundle / "model_b3.so"
    content = bytearray(library.read_bytes())
    content[len(content) // 2] ^= 1
    library.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"model_b3\.so is not the file this artifact was built with"):
        run_bundle(host_bundle, {"image": images(1)})


def test_flipped_byte_is_not_looked_for_when_asked(lab_run: Path, host_bundle: Path, tmp_path: Path) -> None:
    edit_manifest(host_bundle, lambda data: data["files"]["model_b1.so"].update(sha256="0" * 64))
    np.save(tmp_path / "in.npy", images(1))
    arguments = [host_bundle, "--input", f"image={tmp_path}/in.npy", "--output-dir", tmp_path / "out"]
    assert call(lab_run, *arguments).returncode == 5
    assert call(lab_run, *arguments, "--no-verify").returncode == 0


MANIFEST_FAULTS = {
    "schema": (lambda d: d.update(schema_version=99), ArtifactError, "schema version"),
    "kind": (lambda d: d.update(kind="onnx"), ArtifactError, "not a compiled bundle"),
    "field missing": (
        lambda d: d["signature"]["inputs"][0].pop("dtype"),
        ArtifactError,
        r"no 'dtype' in manifest\.json",
    ),
    "wrong type": (lambda d: d["entries"][0].update(batch_size="one"), ArtifactError, r"batch_size.*\n.*integer"),
    "no entries": (lambda d: d.update(entries=[]), ArtifactError, "no compiled function"),
    "file missing": (
        lambda d: d["files"].update({"gone.so": {"sha256": "0" * 64}}),
        IntegrityError,
        "gone.so is missing",
    ),
    "outside": (lambda d: d["files"].update({"../x": {"sha256": "0" * 64}}), IntegrityError, "outside its folder"),
    "unrecorded": (lambda d: d["files"].pop("model_b1.so"), IntegrityError, "not among"),
    "other arch": (lambda d: d["target"].update(arch=OTHER_ARCH), IncompatibleError, "another CPU architecture"),
    "cuda": (lambda d: d["target"].update(kind="cuda"), IncompatibleError, "runs CPU bundles"),
    "feature": (lambda d: d["target"].update(required_features=["warp9"]), IncompatibleError, "no warp9"),
    "file name": (lambda d: d["signature"]["outputs"][0].update(name="../x"), ArtifactError, "file name"),
    "dtype": (lambda d: d["signature"]["outputs"][0].update(dtype="float16"), LabError, "wrong dtype"),
    "function": (lambda d: [e.update(function="nope") for e in d["entries"]], ArtifactError, "no compiled function"),
}


@pytest.mark.parametrize("name", MANIFEST_FAULTS)
def test_faulty_manifest_is_refused(lab_run: Path, host_bundle: Path, tmp_path: Path, name: str) -> None:
    change, error, message = MANIFEST_FAULTS[name]
    edit_manifest(host_bundle, change)  # type: ignore[arg-type]
    np.save(tmp_path / "in.npy", images(1))
    command = [lab_run, host_bundle, "--input", f"image={tmp_path}/in.npy", "--output-dir", tmp_path / "out"]
    from lab.runtime import edge

    with pytest.raises(error, match=message) as caught:  # type: ignore[call-overload]
        edge._call([str(part) for part in command])
    assert type(caught.value) is error
    assert not (tmp_path / "out").exists()


def test_manifest_that_is_not_json_is_refused(lab_run: Path, host_bundle: Path, tmp_path: Path) -> None:
    (host_bundle / "manifest.json").write_text('{"kind": "bundle"')
    done = call(lab_run, host_bundle, "--output-dir", tmp_path)
    assert (done.returncode, "manifest.json is not valid JSON" in done.stderr) == (4, True)
    done = call(lab_run, tmp_path / "nothing", "--output-dir", tmp_path)
    assert (done.returncode, "manifest.json cannot be read" in done.stderr) == (4, True)


def test_library_that_lies_about_its_architecture_does_not_load(host_bundle: Path, tmp_path: Path) -> None:
    (host_bundle / "model_b1.so").write_bytes(b"\x7fELF but not really")
    from lab.artifacts.manifest import file_entry

    entry = file_entry(host_bundle / "model_b1.so")
    edit_manifest(host_bundle, lambda data: data["files"].update({"model_b1.so": entry}))
    with pytest.raises(LabError, match=r"model_b1\.so cannot be loaded"):
        run_bundle(host_bundle, {"image": images(1)})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            {"image": images(1).astype(np.float64)},
            r"wrong dtype\n.*float64\[1, 3, 11, 13\]\n.*float32\[batch, 3, 11, 13\]",
        ),
        ({"image": images(1)[:, :2]}, "wrong shape"),
        ({"image": images(1)[0]}, "wrong number of dimensions"),
        ({"image": images(0)}, "no samples"),
        ({"picture": images(1)}, r"input names do not match the signature\n.*picture\n.*image"),
        ({"image": images(1), "mask": images(1)}, "input names"),
        ({}, "input names"),
    ],
)
def test_unfit_input_is_a_data_error(host_bundle: Path, inputs: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        run_bundle(host_bundle, inputs)


def test_output_without_batch_is_not_joined(host_bundle: Path) -> None:
    def fix_output(data: dict) -> None:
        data["entries"] = data["entries"][1:]
        data["signature"]["outputs"][0]["shape"] = [3, CLASSES]

    edit_manifest(host_bundle, fix_output)
    assert run_bundle(host_bundle, {"image": images(3)})["logits"].shape == (3, CLASSES)
    with pytest.raises(DataError, match="no batch dimension"):
        run_bundle(host_bundle, {"image": images(4)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no bundle is given"),
        (["b"], "--output-dir is missing"),
        (["b", "--output-dir"], "--output-dir needs a value"),
        (["b", "--input", "x.npy"], "NAME=FILE.npy"),
        (["b", "--input", "x=1", "--input", "x=2"], "given twice"),
        (["b", "--time", "0"], "1 or more"),
        (["b", "--threads", "two"], "needs a number"),
        (["b", "--fast"], "unknown argument"),
        (["b", "c"], "unknown argument"),
    ],
)
def test_bad_usage_exits_with_2(lab_run: Path, arguments: list[str], message: str) -> None:
    done = call(lab_run, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_batch_that_was_not_compiled_is_refused(lab_run: Path, host_bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", images(1))
    done = call(
        lab_run, host_bundle, "--input", f"image={tmp_path}/in.npy", "--output-dir", tmp_path / "out", "--batch", 8
    )
    assert (done.returncode, "1, 3 (0: any)" in done.stderr) == (2, True)


def test_help_lists_every_option_and_exit_code(lab_run: Path) -> None:
    done = call(lab_run, "--help")
    assert done.returncode == 0
    for word in ("--input", "--output-dir", "--time", "--batch", "--threads", "--no-verify", "5 integrity"):
        assert word in done.stdout
