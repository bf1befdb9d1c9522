"""The contract of every runner: names, shapes and dtypes out; clear refusals in; the same answer twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from lab.core.errors import DataError
from lab.core.interfaces import Runner
from lab.core.signature import Signature
from lab.runtime import RUNNERS, open_bundle


def eager(path: Path, bundle: Path, signature: Signature) -> Runner:
    import torch
    from torch import nn

    from lab.runtime.eager_runner import EagerRunner

    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 5, 3, 2), nn.Flatten(), nn.Linear(125, 7))
    return EagerRunner(module, signature, num_threads=2)


def remote(path: Path, bundle: Path, signature: Signature) -> Runner:
    """The null model behind a server of one thread, which ends with the process."""
    from lab.runtime.http_client import Client
    from tests.runtime.oip_server import serve

    return RUNNERS["remote"](Client(f"{serve(RUNNERS['null'](signature))}/v2/models/m", 10.0))


OPEN: dict[str, Callable[[Path, Path, Signature], Runner]] = {
    "tvm": lambda path, bundle, signature: open_bundle(bundle),
    "onnxruntime": lambda path, bundle, signature: RUNNERS["onnxruntime"](path, num_threads=2),
    "openvino": lambda path, bundle, signature: RUNNERS["openvino"](path, num_threads=2),
    "eager": eager,
    "null": lambda path, bundle, signature: RUNNERS["null"](signature),
    "remote": remote,
}
PACKAGES = {"tvm": "tvm", "onnxruntime": "onnxruntime", "openvino": "openvino", "eager": "torch", "null": "numpy",
            "remote": "orjson"}  # fmt: skip
HERE = [name for name in OPEN if find_spec(PACKAGES[name])]


def test_every_runner_of_the_table_is_under_the_contract() -> None:
    assert set(OPEN) == set(RUNNERS)
    assert {"tvm", "onnxruntime", "eager", "null"} <= set(HERE)


@pytest.fixture(params=HERE)
def runner(request: pytest.FixtureRequest, onnx_path: Path, bundle: Path) -> Iterator[Runner]:
    signature = open_bundle(bundle).signature
    opened = OPEN[request.param](onnx_path, bundle, signature)
    yield opened
    opened.close()
    opened.close()


@pytest.mark.parametrize("batch", [1, 3])
def test_outputs_fit_the_signature(runner: Runner, batch: int) -> None:
    assert isinstance(runner, Runner)
    outputs = runner.run(runner.signature.example_inputs({"batch": batch}))
    assert runner.signature.check_outputs(outputs) == {"batch": batch}
    assert all(array.flags.c_contiguous for array in outputs.values())


def test_the_same_input_gives_the_same_output(runner: Runner) -> None:
    inputs = runner.signature.example_inputs({"batch": 3}, seed=5)
    before = {name: array.copy() for name, array in inputs.items()}
    first, second = runner.run(inputs), runner.run(inputs)
    for name, output in first.items():
        np.testing.assert_array_equal(output, second[name])
    for name, array in inputs.items():
        np.testing.assert_array_equal(array, before[name])


def test_an_output_is_not_overwritten_by_the_next_run(runner: Runner) -> None:
    first = runner.run(runner.signature.example_inputs({"batch": 1}, seed=1))
    kept = {name: array.copy() for name, array in first.items()}
    runner.run(runner.signature.example_inputs({"batch": 1}, seed=2))
    for name, array in first.items():
        np.testing.assert_array_equal(array, kept[name])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x: {"image": x["x"]}, "input names"),
        (lambda x: {}, "input names"),
        (lambda x: {"x": x["x"].astype(np.float64)}, "dtype"),
        (lambda x: {"x": x["x"][:, :2]}, "shape"),
        (lambda x: {"x": x["x"][0]}, "number of dimensions"),
    ],
    ids=["name", "missing", "dtype", "shape", "rank"],
)
def test_wrong_inputs_are_refused(runner: Runner, change: Callable[..., dict[str, np.ndarray]], told: str) -> None:
    with pytest.raises(DataError, match=told):
        runner.run(change(runner.signature.example_inputs()))


def test_read_only_and_strided_inputs(runner: Runner) -> None:
    whole = runner.signature.example_inputs({"batch": 4}, seed=3)["x"]
    strided = whole[::2]
    strided.flags.writeable = False
    expected = runner.run({"x": np.ascontiguousarray(strided)})
    for name, output in runner.run({"x": strided}).items():
        np.testing.assert_array_equal(output, expected[name])


def test_engines_agree(onnx_path: Path, bundle: Path) -> None:
    reference = RUNNERS["onnxruntime"](onnx_path)
    inputs = reference.signature.example_inputs({"batch": 7}, seed=9)
    expected = reference.run(inputs)
    for name in set(HERE) & {"tvm", "openvino"}:
        actual = OPEN[name](onnx_path, bundle, reference.signature).run(inputs)
        for key, output in expected.items():
            np.testing.assert_allclose(actual[key], output, atol=1e-5)
