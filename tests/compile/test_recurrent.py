"""LSTM, GRU and RNN against ONNX Runtime: random graphs, lengths never seen, what is refused, other machines."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lab.compile.build import compile_onnx
from lab.compile.targets import resolve_target
from lab.core.errors import UnsupportedError
from tests.compile.recurrent_graphs import RecurrentGraph

NUM_FAST, NUM_SLOW = 14, 220
TOLERANCE = 1e-5
SILERO = "silero-vad==6.2.3"


def compiled_for(path: Path, target: str = "x86", dynamic: tuple[str, ...] = ("length",)):  # type: ignore[no-untyped-def]
    return compile_onnx(path, resolve_target(target), dynamic=dynamic, progress=lambda message: None)


def check(seed: int, tmp_path: Path, run_compiled, run_onnx) -> None:  # type: ignore[no-untyped-def]
    graph = RecurrentGraph(seed)
    path = graph.save(tmp_path / "m.onnx")
    compiled = compiled_for(path)
    assert compiled.report.naive() == []
    for num_steps in (0, 1, 19) if graph.dynamic else (0,):
        feed = graph.feed(num_steps)
        expected = run_onnx(path, feed)
        actual = run_compiled(compiled, *(feed[spec.name] for spec in compiled.signature.inputs))
        for wanted, got in zip(expected, actual, strict=True):
            # A plain layer with Relu grows without bound: there the tolerance is relative to the largest value.
            scale = max(1.0, float(np.abs(wanted).max())) if graph.cell == "RNN" else 1.0
            np.testing.assert_allclose(got, wanted, atol=TOLERANCE * scale, rtol=0)


@pytest.mark.parametrize("seed", range(NUM_FAST))
def test_random_layer(seed: int, tmp_path: Path, run_compiled, run_onnx) -> None:  # type: ignore[no-untyped-def]
    check(seed, tmp_path, run_compiled, run_onnx)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_many_random_layers(tmp_path: Path, run_compiled, run_onnx) -> None:  # type: ignore[no-untyped-def]
    for seed in range(NUM_FAST, NUM_FAST + NUM_SLOW):
        check(seed, tmp_path, run_compiled, run_onnx)


def layer(path: Path, cell: str = "LSTM", **attributes: object) -> Path:
    """One layer of constant weights: 3 inputs, 4 units, 2 samples, any length."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[cell]
    rng = np.random.default_rng(0)
    weights = [
        onnx.numpy_helper.from_array(rng.standard_normal((1, gates * 4, size)).astype(np.float32), name)
        for name, size in (("w", 3), ("r", 4))
    ]
    node = helper.make_node(cell, ["x", "w", "r"], ["y"], hidden_size=4, **attributes)
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ["length", 2, 3]), ("y", ["length", 1, 2, 4]))
    ]
    graph = helper.make_graph([node], "layer", values[:1], values[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.mark.parametrize(
    ("cell", "attributes", "told"),
    [
        ("LSTM", {"clip": 1.0}, "clip"),
        ("GRU", {"activations": ["Sigmoid", "Relu"]}, "activations=Sigmoid, Relu"),
        ("LSTM", {"input_forget": 1}, "input_forget"),
    ],
)
def test_variants_of_the_cells_are_refused_by_name(
    tmp_path: Path, cell: str, attributes: dict[str, object], told: str
) -> None:
    with pytest.raises(UnsupportedError, match=told):
        compiled_for(layer(tmp_path / "m.onnx", cell, **attributes))


def test_a_length_stays_open_only_when_asked_for(tmp_path: Path) -> None:
    path = layer(tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError, match="other"):
        compile_onnx(path_with_second_length(path), resolve_target("x86"), progress=lambda message: None)
    signature = compiled_for(path).signature
    assert signature.inputs[0].shape == ("length", 2, 3)
    assert signature.outputs[0].shape == ("length", 1, 2, 4)


def path_with_second_length(path: Path) -> Path:
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "other"
    onnx.save(model, path.with_name("two.onnx"))
    return path.with_name("two.onnx")


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
def test_compiles_for_a_gpu(tmp_path: Path, cell: str) -> None:
    compiled = compiled_for(layer(tmp_path / "m.onnx", cell), "cuda:sm_90")
    assert {row.kernel: row.schedule for row in compiled.report.rows}["recurrent"] == "recurrent"


@pytest.mark.parametrize("target", ["x86:x86-64", "x86:x86-64-v4", "arm"])
def test_compiles_for_other_cpus(tmp_path: Path, target: str) -> None:
    if target == "arm" and shutil.which("aarch64-linux-gnu-gcc") is None:
        pytest.skip("no ARM cross-compiler here: make setup-arm")
    assert compiled_for(layer(tmp_path / "m.onnx"), target).report.naive() == []


@pytest.fixture(scope="session")
def silero(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("silero")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", SILERO, "-d", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip(f"pip cannot fetch {SILERO}")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        return Path(wheel.extract("silero_vad/data/silero_vad_16k_sequence.onnx", folder))


@pytest.mark.slow
def test_a_voice_detector_of_others_at_any_length(silero: Path, run_compiled, run_onnx) -> None:  # type: ignore[no-untyped-def]
    compiled = compiled_for(silero, dynamic=("sequence_length",))
    assert compiled.report.naive() == []
    rng = np.random.default_rng(0)
    for num_steps in (1, 7, 31):
        shapes = {"input": (num_steps, 576), "h": (1, 1, 128), "c": (1, 1, 128)}
        feed = {name: (0.3 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}
        actual = run_compiled(compiled, *(feed[spec.name] for spec in compiled.signature.inputs))
        for wanted, got in zip(run_onnx(silero, feed), actual, strict=True):
            np.testing.assert_allclose(got, wanted, atol=TOLERANCE, rtol=0)
