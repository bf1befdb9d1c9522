"""A small bundle for this machine and one for ARM, and the ONNX Runtime's answers to compare with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lab.artifacts.manifest import Manifest
from lab.compile.build import compile_onnx
from lab.compile.link import write_library
from lab.compile.targets import resolve_target
from lab.core import host
from lab.core.signature import Signature, TensorSpec
from lab.runtime.toolchain import SETUP_ARM, toolchain

CHANNELS, HEIGHT, WIDTH, CLASSES = 3, 11, 13, 5
SIGNATURE = Signature(
    inputs=(TensorSpec("image", "float32", ("batch", CHANNELS, HEIGHT, WIDTH)),),
    outputs=(TensorSpec("logits", "float32", ("batch", CLASSES)),),
)
BATCH_SIZES = (1, 3)


def images(num_samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num_samples, CHANNELS, HEIGHT, WIDTH)).astype(np.float32)


def edit_manifest(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = bundle / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.fixture(scope="session")
def onnx_model() -> onnx.ModelProto:
    """Convolution, ReLU and a linear layer."""
    rng = np.random.default_rng(7)
    arrays = {
        "kernel": rng.standard_normal((7, CHANNELS, 3, 3)) * 0.2,
        "weight": rng.standard_normal((7 * HEIGHT * WIDTH, CLASSES)) * 0.03,
        "bias": rng.standard_normal(CLASSES),
    }
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["maps"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["maps"], ["positive"]),
        helper.make_node("Flatten", ["positive"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", CHANNELS, HEIGHT, WIDTH])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model


@pytest.fixture(scope="session")
def reference(onnx_model: onnx.ModelProto) -> Callable[[np.ndarray], np.ndarray]:
    """ONNX Runtime's logits."""
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx_model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda array: session.run(["logits"], {"image": array})[0]


def build_bundle(model: onnx.ModelProto, folder: Path, target_name: str) -> Path:
    target = resolve_target(target_name)
    onnx.save(model, folder / "model.onnx")
    compiled = compile_onnx(folder / "model.onnx", target, batch_sizes=BATCH_SIZES)
    bundle = folder / "bundle"
    entries = tuple(write_library(compiled, bundle))
    manifest = Manifest("bundle", "small", SIGNATURE, target=target.info(), entries=entries)
    manifest.with_files(bundle, [entry.library for entry in entries]).save(bundle)
    return bundle


@pytest.fixture(scope="session")
def host_bundle_built(onnx_model: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name = "arm" if host.cpu_arch() == "aarch64" else "x86"
    return build_bundle(onnx_model, tmp_path_factory.mktemp("host"), name)


@pytest.fixture
def host_bundle(host_bundle_built: Path, tmp_path: Path) -> Path:
    """A copy that the test may damage."""
    return Path(shutil.copytree(host_bundle_built, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def arm_bundle_built(onnx_model: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tools = toolchain()
    if not (tools.arm_compiler and tools.qemu_arm and tools.arm_sysroot):
        pytest.skip(f"no ARM cross-compiler or emulator here: {SETUP_ARM}")
    return build_bundle(onnx_model, tmp_path_factory.mktemp("arm"), "arm:cortex-a72")


@pytest.fixture
def arm_bundle(arm_bundle_built: Path, tmp_path: Path) -> Path:
    """A copy that the test may damage."""
    return Path(shutil.copytree(arm_bundle_built, tmp_path / "bundle"))
