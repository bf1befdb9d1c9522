"""A program of two functions runs the same in every engine, and one that differs is found out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lab.artifacts.manifest import Entry, Manifest
from lab.compile.build import compile_onnx
from lab.compile.link import write_library
from lab.compile.targets import resolve_target
from lab.core.errors import ArtifactError, ConfigError, DataError
from lab.core.interfaces import Runner
from lab.core.signature import Signature, TensorSpec
from lab.pipelines.parity import climb
from lab.runtime import open_bundle
from lab.runtime.edge import EmulatedRunner, run_bundle
from lab.runtime.onnx_runner import OnnxRunner
from lab.runtime.program import ProgramRunner

SHAPE = ("batch", 8)
FUNCTIONS = {
    "encode": Signature((TensorSpec("x", "float32", SHAPE),), (TensorSpec("state", "float32", SHAPE),)),
    "step": Signature(
        (TensorSpec("y", "float32", SHAPE), TensorSpec("state", "float32", SHAPE)),
        (TensorSpec("next_y", "float32", SHAPE), TensorSpec("next_state", "float32", SHAPE)),
    ),
}
WHOLE = Signature((TensorSpec("x", "float32", SHAPE),), (TensorSpec("ys", "float32", ("batch", 3, 8)),))
NODES = {
    "encode": [helper.make_node("Tanh", ["x"], ["state"])],
    "step": [
        helper.make_node("Sigmoid", ["state"], ["gate"]),
        helper.make_node("Add", ["y", "gate"], ["next_y"]),
        helper.make_node("Tanh", ["next_y"], ["next_state"]),
    ],
}


def loop(functions: Mapping[str, Any], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Three steps from zero."""
    state = functions["encode"](inputs)["state"]
    y, found = np.zeros_like(state), []
    for _ in range(3):
        outputs = functions["step"]({"y": y, "state": state})
        y, state = outputs["next_y"], outputs["next_state"]
        found.append(y)
    return {"ys": np.stack(found, axis=1)}


def expected(x: np.ndarray) -> np.ndarray:
    state, y, found = np.tanh(x), np.zeros_like(x), []
    for _ in range(3):
        y = y + 1 / (1 + np.exp(-state))
        state = np.tanh(y)
        found.append(y)
    return np.stack(found, axis=1)


def write_onnx(folder: Path) -> dict[str, Path]:
    paths = {}
    for name, signature in FUNCTIONS.items():
        values = [
            [helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, list(spec.shape)) for spec in side]
            for side in (signature.inputs, signature.outputs)
        ]
        graph = helper.make_graph(NODES[name], name, *values)
        paths[name] = folder / f"{name}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), paths[name])
    return paths


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_onnx(tmp_path_factory.mktemp("program"))


@pytest.fixture(scope="module")
def bundle(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, target = tmp_path_factory.mktemp("bundle"), resolve_target("x86")
    entries: list[Entry] = []
    for name, path in files.items():
        compiled = compile_onnx(path, target, batch_sizes=(1, 4), progress=lambda message: None)
        entries += write_library(compiled, folder, name)
    manifest = Manifest("bundle", "program", WHOLE, FUNCTIONS, target=target.info(), entries=tuple(entries))
    manifest.with_files(folder, [entry.library for entry in entries]).save(folder)
    return folder


def program(functions: Mapping[str, Runner]) -> ProgramRunner:
    return ProgramRunner(WHOLE, functions, loop)


def in_onnxruntime(files: dict[str, Path]) -> ProgramRunner:
    return program({name: OnnxRunner(files[name], signature=FUNCTIONS[name]) for name in FUNCTIONS})


@pytest.mark.parametrize("num_samples", [1, 4, 7])
def test_every_engine_runs_the_loop(files: dict[str, Path], bundle: Path, num_samples: int) -> None:
    x = np.random.default_rng(num_samples).standard_normal((num_samples, 8)).astype(np.float32)
    opened = {name: partial(engine, bundle, function=name) for name in FUNCTIONS for engine in (open_bundle,)}
    runners = [in_onnxruntime(files), program({name: make() for name, make in opened.items()})]
    runners.append(program({name: EmulatedRunner(bundle, function=name) for name in FUNCTIONS}))
    for runner in runners:
        np.testing.assert_allclose(runner.run({"x": x})["ys"], expected(x), atol=2e-6, err_msg=runner.name)
        runner.close()


def test_libraries_are_named_by_function(bundle: Path) -> None:
    assert sorted(path.name for path in bundle.glob("*.so")) == [
        "encode_b1.so",
        "encode_b4.so",
        "step_b1.so",
        "step_b4.so",
    ]


def test_inputs_and_outputs_are_checked(files: dict[str, Path]) -> None:
    runner = in_onnxruntime(files)
    with pytest.raises(DataError, match="wrong shape"):
        runner.run({"x": np.zeros((1, 9), np.float32)})
    short = ProgramRunner(WHOLE, runner.functions, lambda functions, inputs: {"ys": np.zeros((1, 2, 8), np.float32)})
    with pytest.raises(DataError, match="wrong shape"):
        short.run({"x": np.zeros((1, 8), np.float32)})


def test_an_unknown_function_is_named(bundle: Path) -> None:
    with pytest.raises(ArtifactError, match="no function 'main'"):
        open_bundle(bundle)
    with pytest.raises(ConfigError, match="no such function"):
        run_bundle(bundle, {"x": np.zeros((1, 8), np.float32)}, function="decode")


def test_parity_compares_each_function_on_the_references_inputs(files: dict[str, Path]) -> None:
    reference = in_onnxruntime(files)
    feed = {"x": np.ones((2, 8), np.float32)}
    same = climb(reference, in_onnxruntime(files), [(feed, None)], tolerance=1e-6)
    assert (same.rung.status, same.rung.num_samples, same.rung.max_abs_error) == ("passed", 2, 0.0)
    wrong = in_onnxruntime(files)
    step = wrong.functions["step"]

    class Off:
        name, signature = "off", step.signature

        def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {name: array + np.float32(0.25) for name, array in step.run(inputs).items()}

        def close(self) -> None: ...

    found = climb(reference, program(wrong.functions | {"step": Off()}), [(feed, None)], tolerance=1e-6).rung
    assert found.status == "failed"
    assert found.max_abs_error == pytest.approx(0.25, abs=1e-6), "errors do not add up over the steps"
    assert "step.next" in found.reason
