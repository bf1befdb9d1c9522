"""The bundle's runner: refuses what it must not load, runs any batch, needs no compiler."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.artifacts.manifest import Manifest
from lab.core import host
from lab.core.errors import ArtifactError, ConfigError, DataError, IncompatibleError, IntegrityError, MissingToolError
from lab.runtime import cuda, open_bundle, threads
from lab.runtime.tvm_runner import TvmRunner, check_cpu
from tests.compile.graphs import Graph
from tests.runtime.conftest import make_bundle


@settings(max_examples=12, deadline=None)
@given(num_samples=st.integers(1, 23), seed=st.integers(0, 99))
def test_any_number_of_samples_in_order(bundle: Path, onnx_path: Path, num_samples: int, seed: int) -> None:
    import onnxruntime

    runner = open_bundle(bundle)
    inputs = runner.signature.example_inputs({"batch": num_samples}, seed=seed)
    (expected,) = onnxruntime.InferenceSession(str(onnx_path)).run(None, inputs)
    (actual,) = runner.run(inputs).values()
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_no_samples(bundle: Path) -> None:
    with pytest.raises(DataError, match="no samples"):
        open_bundle(bundle).run({"x": np.zeros((0, 3, 12, 12), np.float32)})


def test_a_flipped_byte_is_found(bundle: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bundle, tmp_path / "tampered")
    library = folder / "model_b1.so"
    raw = bytearray(library.read_bytes())
    raw[len(raw) // 2] ^= 1
    library.write_bytes(raw)
    with pytest.raises(IntegrityError, match=r"model_b1\.so is not the file"):
        open_bundle(folder)


def rewritten(bundle: Path, folder: Path, **target: object) -> Path:
    shutil.copytree(bundle, folder)
    manifest = Manifest.load(folder)
    assert manifest.target is not None
    replace(manifest, target=replace(manifest.target, **target)).save(folder)  # type: ignore[arg-type]
    return folder


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"required_features": ("avx2", "avx10_9")}, "without avx10_9"),
        ({"arch": "aarch64"}, "built for aarch64"),
        ({"kind": "cuda"}, "CUDA device"),
    ],
)
def test_bundles_for_other_machines(bundle: Path, tmp_path: Path, change: dict[str, object], told: str) -> None:
    if change.get("kind") == "cuda" and shutil.which("nvidia-smi"):
        pytest.skip("this machine may have a GPU")
    with pytest.raises((IncompatibleError, MissingToolError), match=told):
        open_bundle(rewritten(bundle, tmp_path / "other", **change))


def test_the_cpu_is_checked_before_any_library_is_touched(bundle: Path, tmp_path: Path) -> None:
    folder = rewritten(bundle, tmp_path / "other", required_features=("avx10_9",))
    (folder / "model_b1.so").unlink()
    with pytest.raises(IncompatibleError):
        open_bundle(folder, verify=False)


def test_check_cpu_uses_the_kernels_spelling(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = Manifest.load(bundle).target
    assert target is not None
    check_cpu(target)
    monkeypatch.setattr(host, "cpu_features", lambda: frozenset({"sse2"}))
    with pytest.raises(IncompatibleError, match="cannot run code built for x86"):
        check_cpu(target)


def test_what_is_not_a_bundle(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="missing"):
        open_bundle(tmp_path)
    folder = shutil.copytree(bundle, tmp_path / "run")
    replace(Manifest.load(folder), kind="run").save(folder)
    with pytest.raises(ArtifactError, match="not a compiled bundle"):
        open_bundle(folder)


def test_a_static_model_and_outputs_without_batch(tmp_path: Path) -> None:
    g = Graph(["batch", 5])
    path = g.save(tmp_path / "m.onnx", g.op("ReduceMean", "x", g.constant(np.array([0])), keepdims=0))
    runner = open_bundle(make_bundle(path, tmp_path / "bundle", (2,)))
    x = np.arange(10, dtype=np.float32).reshape(2, 5)
    np.testing.assert_allclose(*runner.run({"x": x}).values(), x.mean(0))
    with pytest.raises(DataError, match="no batch dimension"):
        runner.run({"x": x[:1]})
    g = Graph([2, 3])
    runner = open_bundle(make_bundle(g.save(tmp_path / "s.onnx", g.op("Relu", "x")), tmp_path / "static", (1,)))
    np.testing.assert_array_equal(*runner.run({"x": -np.ones((2, 3), np.float32)}).values(), np.zeros((2, 3)))


def test_another_thread_count_later_is_said_aloud(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = open_bundle(bundle)
    assert first.num_threads == host.num_cores()
    assert capsys.readouterr().err == ""
    again = open_bundle(bundle, num_threads=first.num_threads + 3)
    assert again.num_threads == first.num_threads
    assert "cannot be resized" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="positive"):
        threads.configure(0)


STARTED_BEFORE = """
import os, sys
os.environ["TVM_NUM_THREADS"] = "1"
import tvm, tvm_ffi
assert tvm_ffi.get_global_func("runtime.NumThreads")() == 1
from lab.runtime import open_bundle
print(open_bundle(sys.argv[1], num_threads=2).num_threads)
"""


def test_a_pool_that_someone_started_before_is_said_aloud(bundle: Path, repo: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(repo), "TVM_USE_RUNTIME_LIB": "1"}
    command = [sys.executable, "-c", STARTED_BEFORE, str(bundle)]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert found.stdout.strip() == "1", found.stderr
    assert "has 1 threads instead of 2" in found.stderr


def test_the_number_of_threads_the_user_set_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_started_with", None)
    monkeypatch.setenv("TVM_NUM_THREADS", "5")
    monkeypatch.setenv("TVM_BIND_THREADS", "1")
    assert threads.configure(None) == 5
    assert os.environ["TVM_BIND_THREADS"] == "0"
    monkeypatch.setattr(threads, "_started_with", None)
    monkeypatch.setenv("TVM_NUM_THREADS", "many")
    with pytest.raises(ConfigError, match="not a number"):
        threads.configure(None)


PROGRAM = """
import json, sys
import numpy as np
from lab.runtime import open_bundle
runner = open_bundle(sys.argv[1], num_threads=1)
(output,) = runner.run(runner.signature.example_inputs({"batch": 3}, seed=4)).values()
import tvm.base, tvm
threads = tvm.get_global_func("runtime.NumThreads")()
print(json.dumps({"output": output.tolist(), "libraries": list(tvm.base._LOADED_LIBS), "threads": threads,
                  "modules": [m for m in ("torch", "onnx", "onnxruntime", "tvm.relax") if m in sys.modules]}))
"""


def test_a_bundle_runs_where_the_compiler_is_absent(bundle: Path, tmp_path: Path, repo: Path) -> None:
    """TVM copied without libtvm_compiler.so, and a Python path that holds neither torch nor onnx."""
    import numpy
    import tvm
    import tvm_ffi
    import typing_extensions

    site = tmp_path / "site"
    site.mkdir()
    skipped = shutil.ignore_patterns("libtvm_compiler.so", "include", "src", "__pycache__")
    shutil.copytree(Path(tvm.__file__).parent, site / "tvm", ignore=skipped)
    packages = Path(tvm_ffi.__file__).parents[1]
    beside = [
        Path(numpy.__file__).parent,
        Path(numpy.__file__).parents[1] / "numpy.libs",
        Path(typing_extensions.__file__),
        packages / "tvm_ffi",
        packages / "ml_dtypes",
        *packages.glob("*tvm_ffi*.dist-info"),
        repo / "lab",
    ]
    for source in beside:
        if source.exists():
            (site / source.name).symlink_to(source)
    environment = {"PYTHONPATH": str(site), "PATH": os.environ["PATH"]}
    found = subprocess.run(
        [sys.executable, "-S", "-c", PROGRAM, str(bundle)], env=environment, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    told = json.loads(found.stdout)
    assert told["libraries"] == ["tvm_runtime"]
    assert told["modules"] == []
    assert told["threads"] == 1
    runner = open_bundle(bundle)
    (expected,) = runner.run(runner.signature.example_inputs({"batch": 3}, seed=4)).values()
    np.testing.assert_allclose(told["output"], expected, atol=1e-6)


def test_kernels_of_a_gpu_come_from_the_bundle(tmp_path: Path) -> None:
    """TVM asks this function for the machine code of a library's kernels, while it loads it."""
    tvm_ffi = pytest.importorskip("tvm_ffi")
    (tmp_path / "model_b1.cubin").write_bytes(b"code")
    before = tvm_ffi.get_global_func(cuda.COMPILE, allow_missing=True)
    with cuda.machine_code(tmp_path / "model_b1.cubin"):
        assert bytes(tvm_ffi.get_global_func(cuda.COMPILE)("source")) == b"code"
    after = tvm_ffi.get_global_func(cuda.COMPILE, allow_missing=True)
    assert (after is None) == (before is None)


def test_a_gpu_bundle_without_machine_code_says_so(bundle: Path, tmp_path: Path) -> None:
    runner = object.__new__(TvmRunner)
    runner.manifest = Manifest.load(rewritten(bundle, tmp_path / "old", kind="cuda"))
    with pytest.raises(ArtifactError, match="machine code"):
        runner._load(tmp_path / "old", runner.manifest.entries[0])
